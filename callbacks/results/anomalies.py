"""Pictures of anomaly scores: where each score sees something unknown."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage, check_num_samples
from callbacks.pictures.grid import picture_grid
from callbacks.pictures.output import picture_path, save_picture
from callbacks.results.prediction_files import PredictionFiles
from callbacks.run.run_folder import PREDICTIONS, set_aside
from eomt.errors import UserError
from eomt.pictures.colors import Color
from eomt.pictures.masks import overlay
from eomt.tasks.semantic_segmentation import SemanticSegmentation
from eomt.utils.files import fitting, write_file
from eomt.utils.trainer import callbacks_of

log = logging.getLogger("eomt")

# what `save_scores` writes into
SCORES = "scores"
# from dark to bright, so that it is a scale to color-blind eyes and in black and white too
COLORMAP = "inferno"
ANOMALY: Color = (0, 190, 255)
IGNORED_GRAY: Color = (128, 128, 128)
TRUTH_LEGEND = [("true anomaly", ANOMALY), ("ignored", IGNORED_GRAY)]
# SegmentMeIfYouCan calls a frame without it
CAMERA = "_leftImg8bit"
# a picture holds a column for each score
CELL_WIDTH = 360
# the few lowest and highest pixels would stretch the scale
LOWEST, HIGHEST = 0.001, 0.999


@dataclass
class ScoredImage:
    """One image on the CPU: uint8 `(3, h, w)`, scores `(S, h, w)`, and labels `(h, w)` 0, 1 and 255 where known."""

    name: str
    image: Tensor
    maps: Tensor
    truth: Tensor | None = None


@dataclass
class SpreadSamples:
    """At most 2 n samples, spread evenly over a stream whose length is not known."""

    wanted: int
    kept: list[ScoredImage] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def offers_place(self) -> bool:
        """Count the next sample, and return whether it is to be kept."""
        self.seen += 1
        return (self.seen - 1) % self.stride == 0

    def keep(self, sample: ScoredImage) -> None:
        """Keep a sample, and let every other one go where they are too many."""
        self.kept.append(sample)
        if len(self.kept) == 2 * self.wanted:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def chosen(self) -> list[ScoredImage]:
        """Return the wanted number of samples, or all if there are fewer."""
        number, last = min(self.wanted, len(self.kept)), len(self.kept) - 1
        return [self.kept[round(index * last / max(1, number - 1))] for index in range(number)]


class AnomalyResults(EvaluationCallback[SemanticSegmentation]):
    """Writes heat maps of anomaly scores into the run's folder; for SemanticSegmentation.

    `pictures/anomaly_<set>_<n>.png`: test images, their truth, and a map of each score, whose colors mean the same in
    all pictures of the set. `predictions/anomaly`: the maps of each image of `predict`, on a scale of its own.

    Args:
        num_samples: How many images of each test set are shown, spread over it. In a run on several processes they
            come from the first one's share.
        save_scores: Also write the scores of each image of `test` and `predict`, at its size:
            `scores/<score>/<set>/<image>.npy` as float32, or `.hdf5` as SegmentMeIfYouCan's code reads them (float16,
            the data set "value", LostAndFound's frames without `_leftImg8bit`; needs h5py). None writes none.

    Raises:
        UserError: If h5py is needed and missing.
    """

    task_class = SemanticSegmentation

    def __init__(self, num_samples: int = 4, save_scores: Literal["npy", "hdf5"] | None = None) -> None:
        self.num_samples = check_num_samples(num_samples)
        if save_scores == "hdf5" and find_spec("h5py") is None:
            raise UserError("save_scores: hdf5 needs h5py, which is not installed; pip install h5py, or give npy")
        self.save_scores = save_scores
        self._sets: dict[str, SpreadSamples] = {}
        # file of scores -> name of the image
        self._saved: dict[Path, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask the task for its maps, and make room for the scores of this command.

        Raises:
            UserError: The task is another one.
        """
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, SemanticSegmentation)
        pl_module.keeps_anomaly_maps = True
        # a stopped `predict` goes on in the same folder, and PredictionFiles knows when it does not
        goes_on = stage == "predict" and any(isinstance(found, PredictionFiles) for found in callbacks_of(trainer))
        if stage in ("test", "predict") and not goes_on:
            self.begin_anew(trainer)

    def begin_anew(self, trainer: Trainer) -> None:
        """Make room for scores."""
        if self.save_scores:
            set_aside(trainer, self.folder / SCORES)

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted test may have left."""
        self._sets, self._saved = {}, {}

    def take(self, trainer: Trainer, task: SemanticSegmentation, evaluated: EvaluatedBatch) -> None:
        """Keep the few test images to show; write every image of `predict`."""
        batch, outputs = evaluated.batch, evaluated.outputs
        if self.save_scores and evaluated.stage in ("test", "predict") and "anomaly_maps" in outputs:
            for index in evaluated.real():
                self._save(batch["name"][index], task.anomalies.scores, outputs["anomaly_maps"][index])
        if evaluated.stage == "predict":
            for index in evaluated.real():
                sample = small(batch["name"][index], batch["image"][index], outputs["anomaly_maps"][index])
                picture = _picture(sample, task.anomalies.scores, score_ranges([sample.maps]), [])
                save_picture(picture, self.folder / PREDICTIONS / "anomaly" / picture_path(sample.name))
        if evaluated.stage != "test" or "anomaly_maps" not in outputs or not trainer.is_global_zero:
            return
        for index in evaluated.real():
            images = self._sets.setdefault(batch["dataset"][index], SpreadSamples(self.num_samples))
            if images.offers_place():
                maps, truth = outputs["anomaly_maps"][index], batch["anomaly"][index]
                images.keep(small(batch["name"][index], batch["image"][index], maps, truth))

    def end_epoch(self, trainer: Trainer, task: SemanticSegmentation, stage: Stage) -> None:
        """Draw what was kept."""
        for dataset, images in self._sets.items():
            samples = images.chosen()
            ranges = score_ranges([sample.maps for sample in samples])
            stem = picture_path(dataset).with_suffix("").as_posix().replace("/", "_")
            for number, sample in enumerate(samples, start=1):
                picture = _picture(sample, task.anomalies.scores, ranges, TRUTH_LEGEND)
                save_picture(picture, fitting(self.folder / "pictures" / f"anomaly_{stem}_{number}.png"))
        self._sets = {}

    def end(self, trainer: Trainer, task: SemanticSegmentation, stage: Stage) -> None:
        """Say where the pictures of `predict` and the scores are."""
        if stage == "predict" and trainer.is_global_zero:
            log.info("Maps of the anomaly scores are in %s", self.folder / PREDICTIONS / "anomaly")
        if self.save_scores and stage in ("test", "predict") and trainer.is_global_zero:
            log.info("Anomaly scores are in %s", self.folder / SCORES)

    def _save(self, name: str, scores: Sequence[str], maps: Tensor) -> None:
        """Write the scores of an image, `(S, H, W)`, a file for each."""
        for score, values in zip(scores, maps.float().cpu().numpy(), strict=True):
            path = picture_path(Path(name).with_suffix(".png").as_posix()).with_suffix(f".{self.save_scores}")
            if self.save_scores == "hdf5":
                path = path.with_stem(path.stem.removesuffix(CAMERA))
            if self._saved.setdefault(path, name) != name:
                raise UserError(f"save_scores: {name} and {self._saved[path]} would share {path}; rename one of them")
            file = fitting(self.folder / SCORES / score / path)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_file(file, partial(write_hdf5 if self.save_scores == "hdf5" else write_npy, values))


def write_npy(values: np.ndarray, path: Path) -> None:
    """Write an array as NumPy does, without another suffix."""
    with path.open("wb") as file:
        np.save(file, values)


def write_hdf5(values: np.ndarray, path: Path) -> None:
    """Write scores as SegmentMeIfYouCan's code does."""
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("value", data=values.astype(np.float16), compression=9)


def small(name: str, image: Tensor, maps: Tensor, truth: Tensor | None = None) -> ScoredImage:
    """Return a sample for a picture, shrunk to the width of a cell, on the CPU.

    Args:
        name: Of the image.
        image: uint8 `(3, H, W)`.
        maps: Scores, `(S, H, W)`.
        truth: Labels, `(H, W)`; None where they are not known.
    """
    height, width = image.shape[-2:]
    if width <= CELL_WIDTH:
        # copies, for a view would keep the whole batch in memory
        return ScoredImage(name, image.cpu().clone(), maps.cpu(), None if truth is None else truth.cpu().clone())
    size = [max(1, round(height * CELL_WIDTH / width)), CELL_WIDTH]
    shrunk = None if truth is None else F.interpolate(truth[None, None].float(), size, mode="nearest-exact")[0, 0]
    return ScoredImage(
        name,
        resize(image, size, antialias=True).cpu(),
        F.interpolate(maps[None].float(), size, mode="area")[0].cpu(),
        None if shrunk is None else shrunk.long().cpu(),
    )


def score_ranges(maps: Sequence[Tensor]) -> Tensor:
    """Return from where to where scores lie but for a few pixels, `(S, 2)`, of maps `(S, h, w)` each."""
    pixels = torch.cat([of_image.flatten(1) for of_image in maps], dim=1).sort(dim=1).values
    last = pixels.shape[1] - 1
    return pixels[:, [round(LOWEST * last), round(HIGHEST * last)]]


@lru_cache
def heat_scale() -> list[Color]:
    """Return the colors of scores from the lowest to the highest, 256 of them."""
    import matplotlib

    colors = np.rint(255 * matplotlib.colormaps[COLORMAP](np.arange(256))[:, :3])
    return [(int(red), int(green), int(blue)) for red, green, blue in colors]


def heat(scores: Tensor, lowest: float, highest: float) -> Tensor:
    """Return the colors of scores: dark at and below `lowest`, bright at and above `highest`.

    Args:
        scores: `(h, w)`.
        lowest: Score of the darkest color.
        highest: Score of the brightest one.

    Returns:
        uint8 `(3, h, w)`
    """
    scale = torch.tensor(heat_scale(), dtype=torch.uint8)
    place = ((scores - lowest) / max(highest - lowest, 1e-12)).clamp(0, 1) * (len(scale) - 1)
    return scale[place.round().long()].permute(2, 0, 1)


def row(sample: ScoredImage, scores: Sequence[str], ranges: Tensor) -> tuple[list[list[Tensor]], list[str]]:
    """Return the pictures of a sample, in one row, and their titles: image, truth if known, a map for each score."""
    pictures, titles = [sample.image], ["image"]
    if sample.truth is not None:
        # 255 would not be painted
        classes = torch.where(sample.truth > 1, 2, sample.truth)
        pictures.append(overlay(sample.image, classes, [None, ANOMALY, IGNORED_GRAY], alpha=0.7))
        titles.append("truth")
    for name, scored, (lowest, highest) in zip(scores, sample.maps, ranges.tolist(), strict=True):
        pictures.append(heat(scored, lowest, highest))
        titles.append(name)
    return [pictures], titles


def scale_legend(scores: Sequence[str], ranges: Tensor) -> list[tuple[str, Color]]:
    """Return the ends of the color scale, and which value of each score they stand for; ranges: `(S, 2)`."""
    ends = [", ".join(f"{name} {end:.3g}" for name, end in zip(scores, of_end, strict=True)) for of_end in ranges.T]
    return [(f"least anomalous: {ends[0]}", heat_scale()[0]), (f"most: {ends[1]}", heat_scale()[-1])]


def _picture(
    sample: ScoredImage, scores: Sequence[str], ranges: Tensor, legend: list[tuple[str, Color]]
) -> Image.Image:
    return picture_grid(*row(sample, scores, ranges), [sample.name], scale_legend(scores, ranges) + legend)
