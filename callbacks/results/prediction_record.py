"""What `predict` has done in a folder, so that a stopped command goes on, and what nobody may mix."""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import product, takewhile
from pathlib import Path
from typing import IO, Any, NotRequired

import torch
from pydantic import ConfigDict, TypeAdapter
from torch import nn
from typing_extensions import TypedDict

from callbacks.pictures.output import picture_path
from eomt.errors import UserError, shortened
from eomt.utils.files import WRITING, is_empty, write_file
from eomt.utils.reading import Count, read_json

RECORD = "record.json"
# a line for each image, from which the tables are made; those of a command that runs are in parts
DONE = "done.jsonl"
PARTS = "parts"
# of settings: what changes nothing but the speed
SPEED = ("data.batch_size", "data.eval_batch_size", "data.num_workers")
# fields of data whose files say what is predicted
CONTENTS = ("data.prompts", "data.predict_csv")


@dataclass
class PredictionRecord:
    """What the predictions in a folder are of.

    Attributes:
        weights: Digest of all tensors of the network.
        source: Where the weights came from, for people.
        settings: Field -> value, of model, data and precision.
        class_names: Names of the classes.
        finished: Whether every image was predicted, or could not be.
        images: How many were predicted.
        failed: How many could not be read.
        files: Names of the files of all images, once they are finished.
    """

    weights: str
    source: str
    settings: dict[str, Any]
    class_names: list[str]
    finished: bool = False
    images: int = 0
    failed: int = 0
    files: list[str] = field(default_factory=list)

    def difference(self, other: "PredictionRecord") -> str | None:
        """Return in words the first thing in which another record is not of the same predictions; None if it is."""
        names = dict.fromkeys([*self.settings, *other.settings])
        for name in names:
            mine, theirs = self.settings.get(name), other.settings.get(name)
            if mine != theirs:
                return f"{name}: {shortened(str(mine), 80)}, now {shortened(str(theirs), 80)}"
        if self.weights != other.weights:
            return f"weights of {shortened(self.source, 80)}, now {shortened(other.source, 80)}"
        if self.class_names != other.class_names:
            return f"classes {shortened(str(self.class_names), 80)}, now {shortened(str(other.class_names), 80)}"
        return None

    def write(self, folder: Path) -> None:
        """Write the record into a folder."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_file(folder / RECORD, lambda beside: beside.write_text(text, encoding="utf-8"))


class _Annotation(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    category: str


class _Line(TypedDict):
    """What is kept of an image; see `PredictionFiles`."""

    name: str
    state: str
    size: list[Count]
    rows: list[dict[str, Any]]
    annotations: NotRequired[list[_Annotation]]
    categories: NotRequired[list[str]]
    pictures: NotRequired[list[str]]


_LINE: TypeAdapter[_Line] = TypeAdapter(_Line)
_RECORD: TypeAdapter[PredictionRecord] = TypeAdapter(PredictionRecord)


def read_record(folder: Path) -> PredictionRecord | None:
    """Return the record of a folder; None where there is none, or one that is none.

    Whatever else lies there is not gone on with, but kept under another name.
    """
    if not (folder / RECORD).is_file():
        return None
    try:
        return read_json(folder / RECORD, _RECORD, "remove it")
    except UserError:
        return None


def digest_of(network: nn.Module) -> str:
    """Return a digest of all tensors of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a configuration that predictions hang on: address, as on the command line, and value.

    Of files that say what is predicted, their content counts too.

    Args:
        config: Resolved; its parts `model` and `data` are looked at.
    """
    found: dict[str, Any] = {}

    def collect(value: Any, address: str) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                collect(inner, address if name == "init_args" else f"{address}.{name}")
        else:
            found[address] = value

    for part in ("model", "data"):
        collect(config.get(part) or {}, part)
    for name in SPEED:
        found.pop(name, None)
    for name in CONTENTS:
        file = Path(str(found.get(name)))
        if file.is_file():
            found[f"content of {name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@dataclass(frozen=True)
class _Place:
    """Where the line of an image is, the state of its file when it was predicted, and the folders of its pictures."""

    file: Path
    offset: int
    state: str
    pictures: tuple[str, ...]


@dataclass
class DoneImages:
    """The images of a folder that are predicted: a line of JSON for each.

    Attributes:
        folder: Of predictions.
        places: Where the line of each image is, by its name; of several, the last.
    """

    folder: Path
    places: dict[str, _Place] = field(default_factory=dict)
    _part: IO[bytes] | None = None

    def read(self) -> None:
        """Find the lines of all images; what a kill has cut off is no line."""
        self.places = {}
        for file in [self.folder / DONE, *sorted((self.folder / PARTS).glob("*.jsonl"))]:
            if not file.is_file():
                continue
            offset = 0
            with file.open("rb") as lines:
                for line in lines:
                    found = _line(line)
                    if found is not None:
                        # one text for all images
                        pictures = tuple(map(sys.intern, found.get("pictures", ())))
                        self.places[found["name"]] = _Place(file, offset, found["state"], pictures)
                    offset += len(line)

    def add(self, line: Mapping[str, Any], rank: int) -> None:
        """Append the line of an image, with "name" and "state", to the part of this process."""
        if self._part is None:
            folder = self.folder / PARTS
            folder.mkdir(parents=True, exist_ok=True)
            number = len(list(folder.glob(f"{rank:04d}-*.jsonl")))
            self._part = (folder / f"{rank:04d}-{number:06d}.jsonl").open("xb")
        self._part.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")
        self._part.flush()

    def close(self) -> None:
        """Close the part of this process."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def lines(self, order: Mapping[str, int]) -> Iterator[dict[str, Any]]:
        """Yield the lines of all images, one at a time: in an order, then those without a place in it, by name."""
        names = sorted(self.places, key=lambda name: (order.get(name, len(order)), name))
        opened: dict[Path, IO[bytes]] = {}
        try:
            for name in names:
                place = self.places[name]
                if place.file not in opened:
                    opened[place.file] = place.file.open("rb")
                opened[place.file].seek(place.offset)
                found = _line(opened[place.file].readline())
                assert found is not None
                yield found
        finally:
            for file in opened.values():
                file.close()

    def is_done(self, name: str, state: str) -> bool:
        """Return whether an image was predicted as its file is now, and its pictures are all there."""
        place = self.places.get(name)
        if place is None or place.state != state:
            return False
        files = [self.folder / kind / picture_path(name) for kind in place.pictures]
        return all(file.is_file() and file.stat().st_size for file in files)

    def pictures_of(self, name: str) -> list[str]:
        """Return the names of the folders in which an image has a picture."""
        path = picture_path(name)
        return sorted(kind.name for kind in self._kinds() if (kind / path).is_file())

    def _kinds(self) -> list[Path]:
        return [kind for kind in self.folder.iterdir() if kind.is_dir() and kind.name != PARTS]

    def drop(self, names: Iterable[str]) -> None:
        """Remove images: their pictures, then their lines, so that a kill between leaves nothing that no line tells."""
        gone = set(names)
        for kind, name in product(self._kinds(), gone):
            file = kind / picture_path(name)
            file.unlink(missing_ok=True)
            for parent in takewhile(lambda folder: folder != self.folder, file.parents):
                if is_empty(parent):
                    parent.rmdir()
        self.places = {name: place for name, place in self.places.items() if name not in gone}
        self.join({name: number for number, name in enumerate(self.places)})

    def join(self, order: Mapping[str, int]) -> None:
        """Put the lines of all parts into one file, in an order."""

        def write(beside: Path) -> None:
            with beside.open("wb") as file:
                for line in self.lines(order):
                    file.write(json.dumps(line, ensure_ascii=True).encode() + b"\n")

        write_file(self.folder / DONE, write)
        for part in (self.folder / PARTS).glob("*.jsonl"):
            part.unlink()
        if (self.folder / PARTS).is_dir():
            (self.folder / PARTS).rmdir()
        self.read()


def remove_unfinished(folder: Path) -> None:
    """Remove the files that a killed command was writing, and had not given their names yet."""
    for file in folder.rglob(f".*{WRITING}*"):
        file.unlink(missing_ok=True)


def _line(text: bytes) -> dict[str, Any] | None:
    """Return what a line says of an image; None if a kill has cut it off, or it is none."""
    if not text.endswith(b"\n"):
        return None
    try:
        # a score may be NaN, which Python's reader takes
        return dict(_LINE.validate_python(json.loads(text), strict=True))
    except (ValueError, RecursionError):
        return None
