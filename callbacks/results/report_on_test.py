"""What a page of a run shows of its test: examples, a confusion matrix, and the page itself."""

import json
import logging
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage
from callbacks.pictures.predictions import shown_classes
from callbacks.results.best_and_worst import BestAndWorst, KeptExample
from callbacks.results.candidates import MAPS, OBJECTS, Kind, candidates, kind_of
from callbacks.results.tables import file_of_test, write_table
from eomt.errors import printable
from eomt.reports.confusion import TRUTH, TRUTH_OF_IMAGES
from eomt.reports.page import write_page
from eomt.tasks.data import data_of
from eomt.tasks.image_classification import ImageClassification
from eomt.tasks.semantic_segmentation import SemanticSegmentation
from eomt.utils.distributed import gather
from eomt.utils.files import write_folder

log = logging.getLogger("eomt")

# at each end
NUM_EXAMPLES = 6
EXAMPLES = "examples.json"


class ReportOnTest(EvaluationCallback[LightningModule]):
    """Writes `report.html` into the run's folder after `test`, which `python -m eomt.report RUN --html` writes again.

    Beside RunSummary's `results/<timestamp>_eval.json`: `..._examples/`, the test images that were answered best and
    worst, and of SemanticSegmentation `..._confusion.csv`, the pixels of each true class (row) by what was predicted
    (column); of ImageClassification the images. Nothing is computed a second time, and a picture is drawn only of an
    image that is among the best or the worst when it comes. It stands behind callbacks that write tables of their own.
    """

    def __init__(self) -> None:
        self._kept = BestAndWorst(NUM_EXAMPLES)
        self._confusion: Tensor | None = None
        self._is_of_images = False

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted evaluation may have left."""
        self._kept, self._confusion = BestAndWorst(NUM_EXAMPLES), None

    def take(self, trainer: Trainer, task: LightningModule, evaluated: EvaluatedBatch) -> None:
        """Keep the best and the worst of `test`."""
        if evaluated.stage == "test":
            for candidate in candidates(trainer, task, evaluated):
                self._kept.offer(candidate)

    def end_epoch(self, trainer: Trainer, task: LightningModule, stage: Stage) -> None:
        """Take the confusion matrix of `test`, which the task empties next."""
        if stage == "test" and isinstance(task, SemanticSegmentation | ImageClassification):
            self._confusion = torch.stack(gather(task.test_metric.confusion.cpu())).sum(0)
            self._is_of_images = isinstance(task, ImageClassification)

    def end(self, trainer: Trainer, task: LightningModule, stage: Stage) -> None:
        """Write the files and the page of `test`."""
        if stage != "test":
            return
        best, worst = self._kept.gathered()
        if not trainer.is_global_zero:
            return
        # of several labels there is one for each, and no table of all
        if self._confusion is not None and self._confusion.ndim == 2 and self._confusion.any():
            head = TRUTH_OF_IMAGES if self._is_of_images else TRUTH
            _write_confusion(file_of_test(trainer, "ReportOnTest", "confusion.csv"), head, self._confusion, trainer)
        if best:
            _write_examples(file_of_test(trainer, "ReportOnTest", "examples"), best, worst, trainer)
        log.info("Report: %s", write_page(self.folder))


def _write_confusion(table: Path, head: str, confusion: Tensor, trainer: Trainer) -> None:
    data = data_of(trainer)
    names = list((data and data.class_names) or [f"class {index}" for index in range(len(confusion))])
    rows = zip(names, confusion.tolist(), strict=True)
    write_table(table, [head, *names], ({head: name} | dict(zip(names, row, strict=True)) for name, row in rows))


def _write_examples(folder: Path, best: list[KeptExample], worst: list[KeptExample], trainer: Trainer) -> None:
    kind = kind_of(trainer.lightning_module)
    content: dict[str, object] = {"caption": kind.caption, "picture": kind.picture, "legend": _legend(trainer, kind)}

    def write(beside: Path) -> None:
        for which, examples in (("best", best), ("worst", worst)):
            listed = []
            for number, example in enumerate(examples):
                file = f"{which}_{number}.jpg"
                (beside / file).write_bytes(example.jpeg)
                texts = {"name": printable(example.name), "lines": [printable(line) for line in example.lines]}
                listed.append(texts | {"file": file, "figure": example.figure})
            content[which] = listed
        (beside / EXAMPLES).write_text(json.dumps(content, indent=1) + "\n")

    # it is new: no test has written it before
    write_folder(folder, write, is_ours=lambda _: False)


def _legend(trainer: Trainer, kind: Kind) -> list[dict[str, str]]:
    if kind not in (MAPS, OBJECTS):
        return []
    names, colors = shown_classes(trainer)
    if kind is OBJECTS and len(names) == 2:
        # objects of one class have colors of their own
        return []
    known = [(name, color) for name, color in zip(names, colors, strict=True) if color is not None]
    return [{"name": printable(name), "color": "#{:02x}{:02x}{:02x}".format(*color)} for name, color in known]
