"""What a morph detector said of each image, as files: scores, decisions, error curves, attention."""

import logging
import math
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.pictures.det_plot import det_plot, score_histograms
from callbacks.pictures.masks import grid, save_picture
from callbacks.pictures.predictions import picture_path
from callbacks.results.sharpness_baseline import sharpness_baseline
from callbacks.results.tables import gathered, stem_of_results, write_table
from callbacks.run.run_folder import run_folder
from datamodules.faces.morph_faces import MorphFaces
from eomt.errors import UserError
from eomt.metrics.error_rates import error_curve
from eomt.tasks.morph_detection import MorphDetection

log = logging.getLogger("eomt")

DECISIONS = ("bonafide", "morph")
# no probability: where no threshold is known, its line is drawn beyond the edge
NOWHERE = 2.0
GLOW = (255, 64, 0)


@dataclass(frozen=True)
class Row:
    """An image and its score."""

    name: str
    attack: str
    label: int
    score: float
    dataset: str


class MorphResults(Callback):
    """Writes files into the run's folder; for MorphDetection.

    After `test`, beside RunSummary's `results/<timestamp>_eval.json`: `..._scores.csv` (name, attack, label, score,
    dataset; label 1 = morph), `..._det.png` with a curve for each data set and attack, `..._histograms.png`.
    After `predict`: `predictions/<timestamp>_scores.csv` (name, score, decision), the decision at the threshold that
    validation chose, and with `--model.rollout true` pictures in `predictions/rollout`.

    Args:
        sharpness: also measure what sharpness and contrast alone tell of these images (`sharpness_baseline`), at the
            end of a fit and in `test`. It reads all training and test images once more.
    """

    def __init__(self, sharpness: bool = True) -> None:
        self.sharpness = sharpness
        self._rows: list[Row] = []
        self._predicted: list[tuple[str, float]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, MorphDetection):
            raise UserError(f"callbacks: MorphResults is for MorphDetection, not {type(pl_module).__name__}")
        self._folder = run_folder(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the baseline beside what was trained."""
        if self.sharpness and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._measure_sharpness(trainer)

    # test

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted test may have left."""
        self._rows = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the scores."""
        columns = [
            batch["name"],
            batch["attack"],
            batch["label"].tolist(),
            outputs["scores"].tolist(),
            batch["dataset"],
        ]
        self._rows += [Row(*values) for values in zip(*columns, strict=True) if values[0]]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes scores and pictures beside the figures."""
        assert isinstance(pl_module, MorphDetection)
        rows = sorted(gathered(self._rows), key=lambda row: (row.dataset, row.name))
        if not trainer.is_global_zero:
            return
        stem = stem_of_results(trainer, "MorphResults")
        names = [field.name for field in fields(Row)]
        write_table(stem.with_name(f"{stem.name}_scores.csv"), names, (asdict(row) for row in rows))
        if curves := error_curves(rows):
            save_picture(det_plot(curves), stem.with_name(f"{stem.name}_det.png"))
        scores, labels = _arrays(rows)
        threshold = NOWHERE if math.isnan(pl_module.threshold) else pl_module.threshold
        save_picture(score_histograms(scores, labels, threshold), stem.with_name(f"{stem.name}_histograms.png"))
        log.info("Scores, DET plot and histograms: %s_...", stem)
        if self.sharpness:
            self._measure_sharpness(trainer)

    def _measure_sharpness(self, trainer: Trainer) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, MorphFaces)
        part = "test" if data.faces("test") else "val"
        log.info("Baseline: sharpness and contrast alone reach an EER of %.4f on %s", sharpness_baseline(data), part)

    # predict

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with nothing."""
        self._predicted = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the scores; every process draws the attention of its own share."""
        self._predicted += [pair for pair in zip(batch["name"], outputs["scores"].tolist(), strict=True) if pair[0]]
        if "rollout" not in outputs:
            return
        for name, image, rollout in zip(batch["name"], batch["image"].cpu(), outputs["rollout"].cpu(), strict=True):
            if name:
                picture = grid([[image, glowing(image, rollout)]], ["image", "attention rollout"], [name], [])
                save_picture(picture, self._folder / "predictions" / "rollout" / picture_path(name))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a row for each image."""
        assert isinstance(pl_module, MorphDetection)
        threshold = pl_module.threshold
        predicted = sorted(gathered(self._predicted))
        if not trainer.is_global_zero:
            return
        if math.isnan(threshold):
            log.warning("No validation has chosen a threshold for this network: the column decision is empty")
        rows = ({"name": name, "score": score, "decision": decision(score, threshold)} for name, score in predicted)
        now = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = self._folder / "predictions" / f"{now}_scores.csv"
        write_table(path, ["name", "score", "decision"], rows)
        log.info("Scores of %d images, and decisions at the threshold %.4f: %s", len(predicted), threshold, path)


def decision(score: float, threshold: float) -> str:
    """What a score means; nothing without a threshold."""
    return "" if math.isnan(threshold) else DECISIONS[score >= threshold]


def error_curves(rows: list[Row]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """MACER and BSCER over all thresholds, of each data set and of each of its attacks against its bona fide images."""
    curves = {}
    for dataset in sorted({row.dataset for row in rows}):
        own = [row for row in rows if row.dataset == dataset]
        attacks = sorted({row.attack for row in own if row.label})
        parts = {dataset: own}
        if len(attacks) > 1:
            parts |= {
                f"{dataset}: {name}": [row for row in own if row.attack == name or not row.label] for name in attacks
            }
        for name, part in parts.items():
            scores, labels = _arrays(part)
            if set(labels.tolist()) == {0, 1}:
                curves[name] = error_curve(scores, labels)[1:]
    return curves


def glowing(image: Tensor, rollout: Tensor) -> Tensor:
    """An image, uint8 (3, H, W), that glows where attention, (h, w), is highest; dark where it is lowest."""
    spread = (rollout - rollout.min()) / (rollout.max() - rollout.min()).clamp(min=1e-12)
    share = F.interpolate(spread[None, None].float(), image.shape[-2:], mode="bilinear")[0]  # (1, H, W)
    color = torch.tensor(GLOW, dtype=torch.float32)[:, None, None]
    return (image.float() * (0.4 + 0.2 * share) + 0.4 * share * color).round().clamp(0, 255).to(torch.uint8)


def _arrays(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row.score for row in rows]), np.array([row.label for row in rows])
