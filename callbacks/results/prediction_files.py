"""What `predict` finds, as COCO JSON and as a table, written while it runs; and what it need not do again."""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback
from callbacks.results.object_files import PANOPTIC, save_numbers, write_panoptic
from callbacks.results.prediction_record import (
    RECORD,
    DoneImages,
    PredictionRecord,
    digest_of,
    flat_settings,
    read_record,
    remove_unfinished,
)
from callbacks.results.tables import write_table
from callbacks.run.run_folder import PREDICTIONS, set_aside
from eomt.errors import UserError, counted, listed
from eomt.results import Result
from eomt.results.of_steps import step_results
from eomt.tasks import PanopticSegmentation
from eomt.tasks.data import class_names_of, data_of
from eomt.utils.distributed import gather
from eomt.utils.files import is_empty, write_file
from eomt.utils.trainer import callbacks_of, is_trial

log = logging.getLogger("eomt")

TABLE = "predictions.csv"
DOCUMENT = "predictions.json"
FAILED = "failed.csv"

Lines = Callable[[], Iterator[dict[str, Any]]]


class UnreadableImagesError(UserError):
    """Images that `predict` could not read, while it predicted others."""

    status = 1


class PredictionFiles(EvaluationCallback[LightningModule]):
    """Writes what `predict` finds into the run's folder, image by image, and goes on where a stopped command ended.

    `predictions/predictions.csv`: rows of all images. `predictions/predictions.json`: masks, in COCO's format.
    `predictions/objects`, `predictions/segments`: of instance and panoptic segmentation pictures of their numbers, and
    `predictions/panoptic.json`, the segments in COCO's format. `predictions/failed.csv`: images that could not be read,
    and why. `predictions/done.jsonl`: a line for each image, from which the others are made at the end.
    `predictions/record.json`: weights and settings.

    An image that is done is not predicted again, unless its file has changed or a picture of it is gone; one that is
    not asked for any more is removed. Finished predictions of other weights or settings are kept under another name;
    those of a command that was stopped are neither mixed nor moved.

    It must stand behind the callbacks that write pictures: an image is done when all of it is written.

    Args:
        config: The resolved configuration of the command.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        self.config = dict(config or {})
        self._record: PredictionRecord | None = None
        self._done = DoneImages(Path())
        # of each image to predict, the state of its file
        self._states: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._is_whole = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the data ask what is left to predict."""
        super().setup(trainer, pl_module, stage)
        self._record, self._states, self._failed, self._is_whole = None, {}, {}, False
        data = data_of(trainer)
        if stage == "predict" and data is not None and not is_trial(trainer):
            data.left_to_predict = partial(self._left, trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, if the data have not asked what is left."""
        super().on_predict_start(trainer, pl_module)
        if self._record is None and not is_trial(trainer):
            self._open(trainer, pl_module)

    def take(self, trainer: Trainer, task: LightningModule, evaluated: EvaluatedBatch) -> None:
        """Write what was found in each image of a batch, and keep what could not be read."""
        if evaluated.stage != "predict" or is_trial(trainer):
            return
        for name, reason in evaluated.batch.get("failed", ()):
            self._failed[name] = reason
            log.warning("%s", reason)
        assert self._record is not None
        names = [evaluated.batch["name"][place] for place in evaluated.real()]
        results = list(step_results(task, evaluated.batch, evaluated.outputs, self._record.class_names))
        for name, result in zip(names, results, strict=True) if results else ():
            save_numbers(result, self.folder / PREDICTIONS, name)
            self._done.add(self._line(name, result), trainer.global_rank)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the files of all images, those of earlier commands too."""
        if stage != "predict" or self._record is None:
            return
        self._done.close()
        shares = gather(self._failed)
        trainer.strategy.barrier()
        if trainer.is_global_zero and not self._is_whole:
            for name, reason in (item for share in shares[1:] for item in share.items()):
                log.warning("%s: %s", name, reason)
            self._finish(trainer, {name: reason for share in shares for name, reason in share.items()})
        trainer.strategy.barrier()

    def _left(self, trainer: Trainer, task: LightningModule, states: Mapping[str, str]) -> list[str]:
        """Return the names of images that are not predicted yet; every process gets the same."""
        self._states = dict(states)
        self._open(trainer, task)
        left = [name for name, state in states.items() if not self._done.is_done(name, state)]
        # a file that has changed may not be readable any more
        dropped = self._done.places.keys() - (states.keys() - set(left))
        gone = sorted(dropped - states.keys())
        assert self._record is not None
        # files that could not be read may be gone, and are then no longer told
        self._is_whole = not left and not dropped and self._record.finished and not self._record.failed
        self._is_whole &= all((self.folder / PREDICTIONS / name).is_file() for name in self._record.files)
        # all have looked before one changes it
        trainer.strategy.barrier()
        if trainer.is_global_zero and len(left) < len(states):
            done = f"{len(states) - len(left)} of {counted(len(states), 'image')} are done already"
            log.info("%s: %s, %d are left", self.folder / PREDICTIONS, done, len(left))
        if trainer.is_global_zero and (left or dropped):
            self._record.finished = False
            self._record.write(self.folder / PREDICTIONS)
        if trainer.is_global_zero and gone:
            what = f"{counted(len(gone), 'image')} not among those to predict any more"
            log.info("%s: predictions of %s are removed: %s", self.folder / PREDICTIONS, what, listed(gone, most=3))
        if trainer.is_global_zero and dropped:
            self._done.drop(dropped)
        trainer.strategy.barrier()
        self._done.read()
        return left

    def _open(self, trainer: Trainer, task: LightningModule) -> None:
        """Go on with the predictions in the folder, or make room for new ones."""
        folder = self.folder / PREDICTIONS
        self._done = DoneImages(folder)
        settings = flat_settings(self.config) | {"trainer.precision": str(trainer.precision)}
        network: Any = getattr(task, "network", task)
        source = str(getattr(task, "weights", None) or "the base")
        self._record = PredictionRecord(digest_of(network), source, settings, class_names_of(trainer))
        earlier = read_record(folder)
        difference = None if earlier is None else earlier.difference(self._record)
        if earlier is not None and difference is not None and not earlier.finished:
            raise UserError(
                f"{folder}: was begun with other settings ({difference}) and is not finished; start that command again "
                "to finish it, or rename or remove the folder to begin anew"
            )
        # all have read it before one changes it
        trainer.strategy.barrier()
        if earlier is None or difference is not None:
            if not is_empty(folder):
                set_aside(trainer, folder)
            for callback in callbacks_of(trainer):
                if isinstance(callback, EvaluationCallback):
                    callback.begin_anew(trainer)
        else:
            self._record.finished, self._record.failed = earlier.finished, earlier.failed
            self._record.files = earlier.files
        if trainer.is_global_zero:
            remove_unfinished(folder)
            if not (earlier is not None and difference is None):
                self._record.write(folder)
        trainer.strategy.barrier()
        self._done.read()

    def _line(self, name: str, result: Result) -> dict[str, Any]:
        """Return what is kept of an image."""
        assert self._record is not None
        rows = result.rows()
        if result.name != name:
            # of questions: several may be about one image
            rows = [{"name": name} | row for row in rows]
        line: dict[str, Any] = {"name": name, "state": self._states.get(name, ""), "size": result.size, "rows": rows}
        if pictures := self._done.pictures_of(name):
            line["pictures"] = pictures
        categories = result.categories()
        if categories:
            further = [category for category in categories if category not in self._record.class_names]
            line |= {"annotations": result.annotations(), "categories": further}
        return line

    def _finish(self, trainer: Trainer, failed: Mapping[str, str]) -> None:
        assert self._record is not None
        folder, record = self.folder / PREDICTIONS, self._record
        self._done.read()
        order = {name: place for place, name in enumerate(self._states)}

        def lines() -> Iterator[dict[str, Any]]:
            return self._done.lines(order)

        if self._done.places:
            _write_rows(folder / TABLE, lines)
            written = [TABLE]
            if any("annotations" in line for line in lines()):
                write_file(folder / DOCUMENT, partial(_write_document, lines, record.class_names))
                written.append(DOCUMENT)
            task = trainer.lightning_module
            if isinstance(task, PanopticSegmentation):
                write_file(folder / PANOPTIC, partial(write_panoptic, lines, record.class_names, task.stuff_classes))
                written.append(PANOPTIC)
            for callback in callbacks_of(trainer):
                if isinstance(callback, EvaluationCallback):
                    callback.write_joined(lines)
            log.info("Predictions of %s: %s", counted(len(self._done.places), "image"), _listed(folder, written))
        else:
            for name in (TABLE, DOCUMENT, PANOPTIC):
                (folder / name).unlink(missing_ok=True)
        self._done.join(order)
        if failed:
            rows = ({"file": name, "reason": failed[name]} for name in sorted(failed))
            write_table(folder / FAILED, ["file", "reason"], rows)
        else:
            (folder / FAILED).unlink(missing_ok=True)
        record.images, record.failed = len(self._done.places), len(failed)
        record.finished = all(name in self._done.places or name in failed for name in self._states)
        # the record itself is there, or nothing is gone on with
        record.files = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != RECORD)
        record.write(folder)


def goes_on_in(folder: Path) -> bool:
    """Return whether `predict` has begun in the folder of a run, and may go on there."""
    return read_record(folder / PREDICTIONS) is not None


def refuse_failures(folder: Path) -> None:
    """Say at the end of `predict` how many images could not be read.

    Args:
        folder: Of the run.

    Raises:
        UserError: If some could not; the exit status is 1, or 2 if all could not.
    """
    record = read_record(folder / PREDICTIONS)
    if record is None or not record.failed:
        return
    total = record.images + record.failed
    where = f"{folder / PREDICTIONS / FAILED} says which and why"
    if record.images:
        raise UnreadableImagesError(
            f"predict: {record.failed} of {total} images could not be read; {where}; mend them and start the command "
            "again, which predicts those alone"
        )
    raise UserError(f"predict: none of {counted(total, 'image')} could be read; {where}")


def _listed(folder: Path, names: list[str]) -> str:
    return ", ".join(str(folder / name) for name in names)


def _write_rows(path: Path, lines: Lines) -> None:
    """Write the rows of all images, one image at a time."""
    columns: dict[str, None] = {"file": None}
    for line in lines():
        if line["rows"]:
            columns = dict.fromkeys(line["rows"][0])
            break

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.DictWriter(file, list(columns))
            table.writeheader()
            for line in lines():
                table.writerows(line["rows"])

    write_file(path, write)


def _write_document(lines: Lines, class_names: list[str], path: Path) -> None:
    """Write what `eomt.results.coco_document` makes of all images, one image at a time."""
    categories = {name: number for number, name in enumerate(class_names, start=1)}
    for line in lines():
        for name in line.get("categories", ()):
            categories.setdefault(name, len(categories) + 1)

    def images() -> Iterator[dict[str, Any]]:
        for number, line in enumerate(lines(), start=1):
            height, width = line["size"]
            yield {"id": number, "file_name": line["name"], "height": height, "width": width}

    def annotations() -> Iterator[dict[str, Any]]:
        count = 0
        for number, line in enumerate(lines(), start=1):
            for found in line.get("annotations", ()):
                count += 1
                ids = {"id": count, "image_id": number, "category_id": categories[found.pop("category")]}
                yield ids | found

    named = ({"id": number, "name": name} for name, number in categories.items())
    with path.open("w", encoding="utf-8") as file:
        file.write("{")
        _write_list(file, '"images": ', images())
        _write_list(file, ', "annotations": ', annotations())
        _write_list(file, ', "categories": ', named)
        file.write("}\n")


def _write_list(file: Any, title: str, items: Iterator[dict[str, Any]]) -> None:
    file.write(f"{title}[")
    for number, item in enumerate(items):
        file.write((",\n" if number else "\n") + json.dumps(item))
    file.write("]")
