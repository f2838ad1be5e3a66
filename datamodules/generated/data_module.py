"""Common parts of the quickstarts' data modules: files drawn once, whole or not at all, over nothing else."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from datamodules.common.data_module import DataModule
from eomt.errors import UserError, listed
from eomt.utils.files import is_empty, write_folder
from eomt.utils.reading import FIELDS, read_json


class GeneratedData(DataModule, ABC):
    """Files that `prepare_data` writes once; subclasses draw them and say what decides how they look.

    It stands behind the data module that reads the files, among the base classes of one that generates them.
    """

    # what is generated, for messages
    kind: ClassVar[str]
    # JSON file in the folder that keeps the settings
    record_file: ClassVar[str]
    # raised whenever the same settings would make other files
    generator_version: ClassVar[int] = 1

    # where the files belong; it may exist if it is empty
    path: Path

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides what is generated, as JSON keeps it."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Fill a new folder."""

    def prepare_data(self) -> None:
        """Write the files unless they are there; the folder appears whole or not at all.

        Raises:
            UserError: The folder holds something else, or files of other settings.
        """
        if self.path.exists() and not is_empty(self.path):
            self.check_prepared()
            return

        def fill(folder: Path) -> None:
            self.write(folder)
            (folder / self.record_file).write_text(json.dumps(self._record(), indent=2) + "\n")

        try:
            write_folder(self.path, fill, is_empty)
        except (UserError, OSError):
            # another run may have drawn them meanwhile
            if not self.path.is_dir() or is_empty(self.path):
                raise
            self.check_prepared()

    def check_prepared(self) -> None:
        """Check that the folder holds files of these settings.

        Raises:
            UserError: It holds something else, or files of other settings.
        """
        try:
            found = read_json(self.path / self.record_file, FIELDS, "give another folder")
        except UserError as error:
            raise UserError(
                f"path: {self.path} exists and holds no generated {self.kind}; give another folder"
            ) from error
        different = [
            f"{key} {found.get(key)} instead of {value}"
            for key, value in self._record().items()
            if found.get(key) != value
        ]
        if different:
            raise UserError(
                f"path: {self.path} holds {self.kind} of {listed(different)}; "
                "give another folder, or delete this one to have them drawn anew"
            )

    def _record(self) -> dict[str, Any]:
        return {"version": self.generator_version, **self.settings}
