"""What a morph detector said of each image, as files: scores, decisions, error curves, attention."""

import logging
import math
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage
from callbacks.pictures.det_plot import det_plot, score_histograms
from callbacks.pictures.grid import picture_grid
from callbacks.pictures.output import picture_path, save_picture
from callbacks.results.morph_baselines import BASELINES, baseline_figures
from callbacks.results.tables import file_of_test, gather_rows, write_table
from callbacks.run.run_folder import PREDICTIONS
from eomt.errors import UserError
from eomt.metrics.error_rates import error_curve
from eomt.pictures.colors import Color
from eomt.tasks.data import FaceData, data_of
from eomt.tasks.morph_detection import MorphDetection
from eomt.utils.trainer import is_trial

log = logging.getLogger("eomt")

GLOW: Color = (255, 64, 0)


@dataclass(frozen=True)
class ScoredFace:
    """An image and its score."""

    name: str
    attack: str
    label: int
    score: float
    dataset: str


class MorphResults(EvaluationCallback[MorphDetection]):
    """Writes files into the run's folder; for MorphDetection.

    After `test`, beside RunSummary's `results/<timestamp>_eval.json`: `..._scores.csv` (name, attack, label, score,
    dataset; label 1 = morph), `..._det.png` with a curve for each data set and attack, `..._histograms.png`.
    In `predict`, whose scores PredictionFiles writes, pictures in `predictions/rollout` with `--model.rollout true`.

    Args:
        sharpness: Whether to measure also what hand-made features tell of these images (`morph_baselines`), at the end
            of a fit and in `test`, which adds `test_eer_sharpness` and `test_eer_texture` to its figures, and the same
            of each data set and attack. It reads all training and test images once more.
    """

    task_class = MorphDetection

    def __init__(self, sharpness: bool = True) -> None:
        self.sharpness = sharpness
        self._tested: list[ScoredFace] = []
        self._failed: list[str] = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the baseline beside what was trained."""
        if self.sharpness and trainer.is_global_zero and not is_trial(trainer):
            _report_baselines(_measured_baselines(trainer))

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted evaluation may have left."""
        self._tested, self._failed = [], []

    def take(self, trainer: Trainer, task: MorphDetection, evaluated: EvaluatedBatch) -> None:
        """Keep the scores of `test`, and draw the attention of `predict`."""
        batch, outputs, stage = evaluated.batch, evaluated.outputs, evaluated.stage
        if stage == "val":
            return
        scores, processed = outputs["scores"].tolist(), outputs["processed"].tolist()
        for index in evaluated.real():
            name = batch["name"][index]
            if stage == "test":
                label = int(batch["label"][index])
                face = ScoredFace(name, batch["attack"][index], label, scores[index], batch["dataset"][index])
                self._tested.append(face)
                self._failed += [] if processed[index] else [name]
            if stage == "predict" and "rollout" in outputs:
                image = batch["image"][index].cpu()
                images = [image, glowing(image, outputs["rollout"][index].cpu())]
                picture = picture_grid([images], ["image", "attention rollout"], [name], [])
                save_picture(picture, self.folder / PREDICTIONS / "rollout" / picture_path(name))

    def end_epoch(self, trainer: Trainer, task: MorphDetection, stage: Stage) -> None:
        """Put the baselines beside the figures of `test`."""
        if stage == "test" and self.sharpness and not is_trial(trainer):
            measured = _measured_baselines(trainer) if trainer.is_global_zero else ("", {})
            if trainer.is_global_zero:
                _report_baselines(measured)
            # all processes must log the same
            task.baseline_figures = trainer.strategy.broadcast(measured[1])

    def end(self, trainer: Trainer, task: MorphDetection, stage: Stage) -> None:
        """Write scores and pictures of `test`; say in `predict` where there is no threshold to decide at."""
        if stage == "test":
            tested = sorted(gather_rows(self._tested), key=lambda face: (face.dataset, face.name))
            failed = sorted(gather_rows(self._failed))
            if failed:
                log.warning(
                    "%d of %d tested images show nothing (%s, ...), as a covered lens or noise: they failed to "
                    "process, and are still in the figures by their scores; take them out",
                    *(len(failed), len(tested), failed[0]),
                )
            if trainer.is_global_zero:
                _write_test(trainer, tested, task.threshold)
        if stage == "predict" and trainer.is_global_zero and math.isnan(task.threshold):
            log.warning("No validation has chosen a threshold for this network: the column decision is empty")


def _write_test(trainer: Trainer, tested: list[ScoredFace], threshold: float) -> None:
    table, det, histograms = (
        file_of_test(trainer, "MorphResults", ending) for ending in ("scores.csv", "det.png", "histograms.png")
    )
    write_table(table, [field.name for field in fields(ScoredFace)], (asdict(face) for face in tested))
    if curves := error_curves(tested):
        save_picture(det_plot(curves), det)
    save_picture(score_histograms(*_arrays(tested), threshold), histograms)
    log.info("Scores, DET plot and histograms: %s...", str(table).removesuffix("scores.csv"))


def _measured_baselines(trainer: Trainer) -> tuple[str, dict[str, float]]:
    """Return what the baselines are measured on, in words, and their figures."""
    data = data_of(trainer)
    if not isinstance(data, FaceData):
        raise UserError(
            f"data: {type(data).__name__} has no faces whose features MorphResults could measure; give MorphFaces, "
            "or sharpness: false"
        )
    # after a fit on data without any, validation is there
    parts = data.tested_parts() or ["val"]
    return ", ".join(parts), baseline_figures(data, parts)


def _report_baselines(measured: tuple[str, dict[str, float]]) -> None:
    where, figures = measured
    for name, baseline in BASELINES.items():
        figure = f"eer_{name}"
        log.info(
            "Baseline: %s reach an EER of %.4f (%.4f to %.4f) on %s",
            *(baseline.title, figures[figure], figures[f"{figure}_low"], figures[f"{figure}_high"], where),
        )


def error_curves(tested: list[ScoredFace]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return MACER and BSCER over all thresholds, of each data set, and of each attack against its bona fide images."""
    curves = {}
    for dataset in sorted({face.dataset for face in tested}):
        own = [face for face in tested if face.dataset == dataset]
        attacks = sorted({face.attack for face in own if face.label})
        parts = {dataset: own}
        if len(attacks) > 1:
            for attack in attacks:
                parts[f"{dataset}: {attack}"] = [face for face in own if face.attack == attack or not face.label]
        for name, part in parts.items():
            scores, labels = _arrays(part)
            if set(labels.tolist()) == {0, 1}:
                curves[name] = error_curve(scores, labels)[1:]
    return curves


def glowing(image: Tensor, rollout: Tensor) -> Tensor:
    """Return an image, uint8 `(3, H, W)`, that glows where attention, `(h, w)`, is highest and is dark elsewhere."""
    spread = (rollout - rollout.min()) / (rollout.max() - rollout.min()).clamp(min=1e-12)
    share = F.interpolate(spread[None, None].float(), image.shape[-2:], mode="bilinear")[0]  # (1, H, W)
    color = torch.tensor(GLOW, dtype=torch.float32)[:, None, None]
    return (image.float() * (0.4 + 0.2 * share) + 0.4 * share * color).round().clamp(0, 255).to(torch.uint8)


def _arrays(tested: list[ScoredFace]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([face.score for face in tested]), np.array([face.label for face in tested])
