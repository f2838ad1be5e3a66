"""Tables of images: data sets that Hugging Face's `datasets` saved as Arrow files, and Parquet files.

They are read by pyarrow alone, and nothing is fetched.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from datamodules.common.contained import ContainedImage
from datamodules.common.splits import named_split
from datamodules.common.zip_members import ImageFile
from eomt.errors import UserError, counted, listed, shortened
from eomt.utils.reading import Text, check_regular, read_json

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("eomt")

SPLITS_FILE, STATE_FILE, NAMES_FILE = "dataset_dict.json", "state.json", "id2label.json"
PARQUET = ".parquet"
UNNAMED = "all"
# what columns are called, most common first
IMAGE_COLUMNS = ("image", "img", "pixel_values", "images", "jpg", "png")
MASK_COLUMNS = (
    *("mask", "label", "annotation", "labels", "segmentation_mask", "semantic_mask", "segmentation", "masks"),
    *("annotated", "mask_image", "gt", "target", "objects_mask"),
)
REMEDY = "give a folder that save_to_disk of datasets wrote, or Parquet files"


class SplitList(TypedDict):
    """What is read of a dataset_dict.json."""

    splits: Annotated[list[Text], Field(min_length=1)]


class DataFile(TypedDict):
    """What is read of a file's entry."""

    filename: Text


class State(TypedDict):
    """What is read of a state.json."""

    _data_files: Annotated[list[DataFile], Field(min_length=1)]


SPLIT_LIST, STATE = TypeAdapter(SplitList), TypeAdapter(State)
LABEL_NAMES = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class TablePart:
    """Rows that are read together: an Arrow file, or a group of rows of a Parquet file."""

    file: Path
    group: int
    rows: int


@dataclass(frozen=True)
class TableImage(ContainedImage):
    """An image in a row of a table."""

    part: TablePart
    column: str
    row: int

    def __str__(self) -> str:
        number = f"{self.part.group}:{self.row}" if self.part.file.suffix == PARQUET else str(self.row)
        return f"{self.part.file}: row {number}, {self.column}"

    @property
    def archive(self) -> Path:
        """The file of the table."""
        return self.part.file

    @property
    def size(self) -> int:
        """Number of bytes of the image."""
        return len(self.read())

    def read(self) -> bytes:
        """Return the file of the image.

        Raises:
            UserError: The table is damaged, or holds nothing in this place.
        """
        column = _columns(self.part.file, self.part.group, (self.column,), os.getpid(), _version(self.part.file))
        try:
            value = column.column(self.column)[self.row].as_py()
        except _damage() as error:
            raise UserError(f"{self}: cannot be read ({error}); {REMEDY}") from error
        content = value.get("bytes") if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(content, bytes):
            return content
        if isinstance(path, str) and (beside := self.part.file.parent / path).is_file():
            check_regular(beside, REMEDY)
            return beside.read_bytes()
        raise UserError(f"{self}: holds no image; save the data set with its images inside")


def find_tables(path: Path) -> dict[str, list[Path]] | None:
    """Return the files of a folder by what names of files and folders call them; None where there are none.

    What is not called like a split is "all", or, listed in a file, what it is called there.

    Raises:
        UserError: A file that lists the others is damaged.
    """
    if path.suffix.lower() == PARQUET and path.is_file():
        return {UNNAMED: [path]}
    if (path / SPLITS_FILE).is_file():
        splits = read_json(path / SPLITS_FILE, SPLIT_LIST, REMEDY)["splits"]
        return {name: _state_files(path / name) for name in splits}
    if (path / STATE_FILE).is_file():
        return {UNNAMED: _state_files(path)}
    files = sorted(path.glob(f"**/*{PARQUET}")) if path.is_dir() else []
    if not files:
        return None
    found: dict[str, list[Path]] = {}
    for file in files:
        # train-00000-of-00002.parquet, train/0000.parquet, train.parquet
        names = [file.stem.split("-")[0], *file.relative_to(path).parts[-2::-1]]
        found.setdefault(next(filter(None, map(named_split, names)), UNNAMED), []).append(file)
    return found


def files_of_splits(found: dict[str, list[Path]], path: Path) -> dict[str, list[Path]]:
    """Return the files of tables by our names of splits, or under "all", which a seed splits.

    Beside splits, files of other names are left out, and told.

    Args:
        found: Files by what they are called.
        path: Where they are.
    """
    named: dict[str, list[Path]] = {}
    for name, files in found.items():
        if split := named_split(name):
            named[split] = [*named.get(split, ()), *files]
    if not named:
        return {UNNAMED: [file for files in found.values() for file in files]}
    if others := [str(file) for name, files in found.items() if named_split(name) is None for file in files]:
        log.warning(
            "%s: %s beside those of splits, left out: %s", path, counted(len(others), "table"), listed(others, most=3)
        )
    return named if len(named) > 1 else {UNNAMED: next(iter(named.values()))}


def _state_files(folder: Path) -> list[Path]:
    listed_files = read_json(folder / STATE_FILE, STATE, REMEDY)["_data_files"]
    return [folder / file["filename"] for file in listed_files]


def table_parts(file: Path) -> list[TablePart]:
    """Return the parts of a table's file.

    Raises:
        UserError: It is damaged.
    """
    check_regular(file, REMEDY)
    parquet, _ = _pyarrow()
    try:
        if file.suffix.lower() == PARQUET:
            with parquet.ParquetFile(file) as opened:
                meta = opened.metadata
                return [TablePart(file, group, meta.row_group(group).num_rows) for group in range(meta.num_row_groups)]
    except _damage() as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); {REMEDY}") from error
    return [TablePart(file, 0, _columns(file, 0, None, os.getpid(), _version(file)).num_rows)]


def image_columns(file: Path) -> list[str]:
    """Return the names of the columns of a table that may hold images.

    Raises:
        UserError: It is damaged.
    """
    parquet, arrow = _pyarrow()
    check_regular(file, REMEDY)
    try:
        if file.suffix.lower() == PARQUET:
            schema = parquet.read_schema(file)
        else:
            schema = _columns(file, 0, None, os.getpid(), _version(file)).schema
    except _damage() as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); {REMEDY}") from error
    types = arrow.types
    return [
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and "bytes" in [inner.name for inner in field.type])
    ]


def choose_columns(file: Path, image: str | None, mask: str | None) -> tuple[str, str]:
    """Return the names of the columns of images and masks.

    Args:
        file: Of the table.
        image: The name that is given; None finds it.
        mask: Likewise.

    Raises:
        UserError: There are none, or it is not clear which they are.
    """
    columns = image_columns(file)
    for field, name in (("image_column", image), ("mask_column", mask)):
        if name is not None and name not in columns:
            raise UserError(f"{field}: {file} has no column {shortened(name)!r} of images; it has {listed(columns)}")
    image = image or next((name for name in IMAGE_COLUMNS if name in columns and name != mask), None)
    others = [name for name in columns if name != image]
    mask = mask or next((name for name in MASK_COLUMNS if name in others), None)
    # two alone leave no doubt, once one of them is known
    if len(columns) == 2 and (image is None) != (mask is None):
        (left,) = [name for name in columns if name not in (image, mask)]
        image, mask = image or left, mask or left
    if image is None or mask is None:
        wanted = "image_column" if image is None else "mask_column"
        raise UserError(
            f"{file}: no column that is known to hold {'images' if image is None else 'masks'}; give {wanted}, one of "
            f"{listed(columns)}"
        )
    return image, mask


def label_names(folder: Path) -> dict[int, str] | None:
    """Return the names of labels in an `id2label.json`; None where there is none.

    Raises:
        UserError: It is damaged.
    """
    file = folder / NAMES_FILE
    if not file.is_file():
        return None
    found = read_json(file, LABEL_NAMES, "write the name of each label")
    if not all(key.isdecimal() and len(key) <= 5 for key in found):
        raise UserError(f"{file}: labels {listed(found)}; must be numbers")
    return dict(sorted((int(key), name) for key, name in found.items()))


def row_images(parts: Sequence[TablePart], column: str) -> list[ImageFile]:
    """Return the images of a column, in order."""
    return [TableImage(part, column, row) for part in parts for row in range(part.rows)]


def _version(file: Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4)
def _columns(
    file: Path, group: int, columns: tuple[str, ...] | None, process: int, version: tuple[int, int]
) -> "pyarrow.Table":
    """Return columns of a part of a table; Arrow files are mapped into memory, and take none.

    Raises:
        UserError: The file is damaged.
    """
    parquet, arrow = _pyarrow()
    try:
        if file.suffix.lower() == PARQUET:
            with parquet.ParquetFile(file) as opened:
                return opened.read_row_group(group, columns=columns)
        source = arrow.memory_map(str(file))
        # datasets writes streams, others files
        try:
            return arrow.ipc.open_stream(source).read_all()
        except arrow.ArrowInvalid:
            return arrow.ipc.open_file(source).read_all()
    except _damage() as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); {REMEDY}") from error


def _pyarrow() -> tuple[Any, Any]:
    """Return pyarrow's parquet and pyarrow itself.

    Raises:
        UserError: They are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("data: tables of images need pyarrow; run: pip install 'eomt[data]'") from error
    return pyarrow.parquet, pyarrow


def _damage() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises for files that are damaged."""
    _, arrow = _pyarrow()
    return (arrow.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError)


def _reason(error: Exception) -> str:
    return shortened(" ".join(str(error).split()), 200)
