"""Questions about images in CSV files."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from datamodules.common.checks import check_fractions
from datamodules.common.grouped_splits import Group, group_copies
from datamodules.common.splits import SPLITS, read_split_record
from datamodules.questions.answer_weights import weights_command
from datamodules.questions.data_module import QuestionDataModule
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import QuestionTable, read_questions
from datamodules.questions.splits import find_leaks, images_of, leak_message, split_images, warn_of_shared_images
from datamodules.questions.types import DEFAULT_TYPES, Language, QuestionTypes
from eomt.errors import UserError
from eomt.utils.paths import expand

OnLeak = Literal["error", "drop", "ignore"]

log = logging.getLogger("eomt")


class VQACsv(QuestionDataModule):
    """Questions about images in CSV files, in ViVQA's columns or others.

    The columns are image (or filename, img_id, image_id, image_path, file_name, img), `question`, `answer` or
    `answers`, a JSON list of all references, and optionally `type` (or question_type), a number or a name; where it is
    missing or blank, rules of the language find the type. Cells are parted by commas, semicolons or tabs. An image is a
    path relative to `image_folder`, a name without its extension, or a number of COCO. Where there is no file for
    validation, images of `train_csv` are split by a seed: never rows, and copies of an image stay together.

    Args:
        train_csv: Rows to train on.
        val_csv: Rows of validation; null to take `val_fraction` of the images of `train_csv`.
        test_csv: Rows of test; null to take `test_fraction` of the images of `train_csv`.
        image_folder: Folder of the images; null for that of each CSV.
        val_fraction: Share of validation, in images, where there is no `val_csv`.
        test_fraction: Share of test, in images, where there is no `test_csv`.
        split_seed: Seed of that split.
        splits: JSON file of an earlier split to be used again.
        on_leak: Whether a training image that is in validation or test too, by its file's bytes, is an error, or its
            training rows are left out and counted (drop), or trained on (ignore), with a warning, as only figures for a
            published split need. ViVQA's own files share images. Images that validation and test share are only told.
        language: Language of questions and answers, en, vi or other: its rules find the types of rows without one, and
            decide which answers are equal. Of other, a row without a type is object. Questions in another language are
            refused.
        question_types: Names of the types; a number in a file is a place in this list.
        **common: Fields of `QuestionDataModule`.

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    def __init__(
        self,
        train_csv: Path,
        val_csv: Path | None = None,
        test_csv: Path | None = None,
        image_folder: Path | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        split_seed: int = 0,
        splits: Path | None = None,
        on_leak: OnLeak = "error",
        language: Language = "en",
        question_types: list[str] = list(DEFAULT_TYPES),  # noqa: B006 (the command line shows the default)
        **common: Any,
    ) -> None:
        super().__init__(QuestionTypes(question_types, language), language, **common)
        if val_csv is None:
            check_fractions(val_fraction, test_fraction)
        elif not 0 <= test_fraction < 1:
            raise UserError(f"test_fraction: {test_fraction}; must be at least 0 and below 1")
        if test_csv is not None and test_fraction > 0:
            raise UserError("test_csv, test_fraction: both are given; give one of them")
        self.train_csv = expand(train_csv)
        self.val_csv = expand(val_csv)
        self.test_csv = expand(test_csv)
        self.image_folder = expand(image_folder)
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.split_seed = split_seed
        self._val_share = val_fraction if val_csv is None else 0.0
        self.splits = expand(splits)
        self.on_leak: OnLeak = on_leak
        if self.splits is not None and not self.is_split_by_seed:
            raise UserError("splits: val_csv is given and test_fraction 0, so nothing is split; leave splits out")

    @property
    def is_split_by_seed(self) -> bool:
        """True where images of `train_csv` are split here."""
        return self._val_share > 0 or self.test_fraction > 0

    @property
    def split_record(self) -> dict[str, list[str]]:
        """Names of the images of `train_csv` in each split, as `splits` takes them from a JSON file."""
        images = {split: {row.image for row in self._table(split).rows} for split in SPLITS}
        given = {"val": self.val_csv, "test": self.test_csv}
        return {
            split: sorted(map(self._image_name, found)) if given.get(split) is None else []
            for split, found in images.items()
        }

    def split_groups(self) -> list[Group]:
        """Return copies of an image together."""
        images = sorted({row.image for split in ("train", "val") for row in self._table(split).rows})
        names = [self._image_name(image) for image in images]
        return group_copies(names, images, [frozenset()] * len(images))

    def fold_records(self, num_folds: int) -> list[dict[str, list[str]]]:
        """Return splits for cross-validation; none where a file holds what to validate on."""
        return [] if self.val_csv is not None else super().fold_records(num_folds)

    def find_tables(self) -> dict[str, QuestionTable]:
        """Return the rows of "train", "val" and "test"; none may be trained on whose image is measured on.

        Raises:
            UserError: A file cannot be used, or training images are in another split too.
        """
        if self.val_csv is not None:
            unused = ["val_fraction"] if self.test_fraction else ["val_fraction", "split_seed"]
            self.note_unused(unused, "val_csv is given")
        whole = self._read(self.train_csv)
        given = {}
        for split, file in (("val", self.val_csv), ("test", self.test_csv)):
            if file is not None:
                given[split] = self._read(file)
                leaks = find_leaks(images_of(whole), images_of(given[split]), same_content=True)
                whole = self._without_leaks(whole, leaks, self.train_csv, file, "take their rows out of one file")
        tables = self._split(whole) if self.is_split_by_seed else {"train": whole}
        tables = {split: QuestionTable([]) for split in SPLITS} | tables | given
        warn_of_shared_images(images_of(tables["val"]), images_of(tables["test"]), same_content=True)
        return tables

    def weights_command(self) -> str:
        """Return how the answer weights of this training split are made, for messages."""
        fields = {"train_csv": self.train_csv, **self._weights_options()}
        skips, drops = self.on_missing == "skip", self.on_leak == "drop"
        if self.is_split_by_seed or skips or drops:
            # the training split is not the whole file
            fields |= {
                "val_csv": self.val_csv,
                "test_csv": self.test_csv,
                "image_folder": self.image_folder,
                "splits": self.splits,
                "val_fraction": self._val_share or None,
                "test_fraction": self.test_fraction or None,
                "split_seed": self.split_seed or None,
                "on_missing": "skip" if skips else None,
                "on_leak": None if self.on_leak == "error" else self.on_leak,
                # or rows could not be read whose types these are
                "question_types": self.question_types,
            }
        return weights_command(fields)

    def _read(self, file: Path) -> QuestionTable:
        find = ImageFinder(self._image_folder(file))
        return read_questions(file, find, self.types, on_missing=self.on_missing)

    def _image_folder(self, csv_file: Path) -> Path:
        return self.image_folder or csv_file.parent

    def _image_name(self, image: Path) -> str:
        folder = self._image_folder(self.train_csv)
        return (image.relative_to(folder) if image.is_relative_to(folder) else image).as_posix()

    def _split(self, whole: QuestionTable) -> dict[str, QuestionTable]:
        files = {self._image_name(row.image): row.image for row in whole.rows}
        if self.splits is None:
            record = split_images(files, self._val_share, self.test_fraction, self.split_seed)
        else:
            record = read_split_record(self.splits, list(files))
        split_of = {files[name]: split for split, names in record.items() for name in names}
        tables = {split: [row for row in whole.rows if split_of.get(row.image) == split] for split in SPLITS}
        if not tables["train"]:
            raise UserError(f"{self.train_csv}: {len(files)} images, none is left to train on; more are needed")
        # what was left out before was in no split yet
        train = replace(whole, rows=tables["train"])
        found = {split: QuestionTable(rows) for split, rows in tables.items()}
        if self.splits is not None:
            # a split of another program, or of before copies came, may have them on two sides
            for split in ("val", "test"):
                leaks = find_leaks(images_of(train), images_of(found[split]), same_content=True)
                train = self._without_leaks(train, leaks, self.splits, split, "name copies of an image in one split")
        return found | {"train": train}

    def _without_leaks(
        self, training: QuestionTable, leaks: Mapping[Path, Path], source: Path, measured: Path | str, remedy: str
    ) -> QuestionTable:
        if leaks and self.on_leak == "error":
            raise UserError(leak_message(source, measured, leaks, f"{remedy}, or set on_leak: drop (or ignore)"))
        if leaks and self.on_leak == "ignore":
            log.warning(
                "on_leak: ignore: %d training images are in %s too and are trained on: figures there are too high, and "
                "stand beside those of others on the same split alone",
                *(len(leaks), measured),
            )
            return training
        rows = [row for row in training.rows if row.image not in leaks]
        if not rows:
            raise UserError(f"{source}: every training image is in {measured} too; nothing is left to train on")
        return replace(training, rows=rows, leaked=training.leaked + len(training.rows) - len(rows))
