"""What `predict` finds, as files that labeling tools import."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.evaluation import EvaluationCallback
from callbacks.run.run_folder import PREDICTIONS
from eomt.errors import UserError
from eomt.results.label_files import LabelFormat, write_label_files
from eomt.tasks.data import class_names_of

log = logging.getLogger("eomt")


class LabelFiles(EvaluationCallback[LightningModule]):
    """Writes the masks of `predict` as files that labeling tools import, to be corrected there and read again.

    `predictions/yolo`: a text file of polygons for each image in `labels`, and `data.yaml`. `predictions/labelme`: a
    JSON file for each image. `predictions/predictions.json`, which is always written, is COCO's format, and
    `predictions/masks` are index PNG. See `eomt.results.label_files` for what polygons cannot hold.

    Args:
        formats: Which are written: "yolo", "labelme", or both.

    Raises:
        UserError: There are none.
    """

    def __init__(self, formats: list[LabelFormat]) -> None:
        super().__init__()
        if not formats:
            raise UserError("formats: an empty list; give yolo, labelme or both")
        self.formats = list(dict.fromkeys(formats))
        self._class_names: Sequence[str] = ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the names of the classes."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            self._class_names = class_names_of(trainer)

    def write_joined(self, lines: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Write the files of all images, those of earlier, stopped commands too."""
        names = dict.fromkeys(self._class_names)
        for line in lines():
            names |= dict.fromkeys(line.get("categories", ()))
        for kind in self.formats:
            folder = self.folder / PREDICTIONS / kind
            images = ((line["name"], tuple(line["size"]), line.get("annotations", ())) for line in lines())
            write_label_files(folder, kind, images, list(names))
            log.info("Labels of predictions for labeling tools: %s", folder)
