"""Pictures of anomaly scores: where each score sees something unknown."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from callbacks.pictures.masks import Color, grid, overlay, save_picture
from callbacks.pictures.predictions import picture_path
from callbacks.run.run_folder import run_folder
from eomt.errors import UserError
from eomt.tasks.semantic_segmentation import SemanticSegmentation

log = logging.getLogger("eomt")

# from dark to bright, so that it is a scale to colour-blind eyes and in black and white too
SCALE: list[Color] = [(8, 6, 40), (84, 20, 110), (180, 50, 90), (240, 125, 30), (252, 240, 150)]
ANOMALY: Color = (0, 190, 255)
IGNORED_GREY: Color = (128, 128, 128)
TRUTH_LEGEND = [("true anomaly", ANOMALY), ("ignored", IGNORED_GREY)]
# a picture holds a column for each score
CELL_WIDTH = 360
# the few lowest and highest pixels would stretch the scale
LOWEST, HIGHEST = 0.001, 0.999


@dataclass
class ScoredImage:
    """One image on the CPU: `image` uint8 (3, h, w), `maps` float (S, h, w), `truth` (h, w) of 0, 1 and 255 or None."""

    name: str
    image: Tensor
    maps: Tensor
    truth: Tensor | None = None


@dataclass
class Spread:
    """At most 2 n samples, spread evenly over a stream whose length is not known."""

    wanted: int
    kept: list[ScoredImage] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def offers_place(self) -> bool:
        """Counts the next sample, and tells whether it is to be kept."""
        self.seen += 1
        return (self.seen - 1) % self.stride == 0

    def keep(self, sample: ScoredImage) -> None:
        """Keeps a sample, and lets every other one go where they are too many."""
        self.kept.append(sample)
        if len(self.kept) == 2 * self.wanted:
            self.kept, self.stride = self.kept[::2], 2 * self.stride

    def chosen(self) -> list[ScoredImage]:
        """The wanted number, or all if there are fewer."""
        number, last = min(self.wanted, len(self.kept)), len(self.kept) - 1
        return [self.kept[round(index * last / max(1, number - 1))] for index in range(number)]


class AnomalyResults(Callback):
    """Writes heat maps of anomaly scores into the run's folder; for SemanticSegmentation.

    `pictures/anomaly_<set>_<n>.png`: test images, their truth, and a map of each score, whose colours mean the same in
    all pictures of the set. `predictions/anomaly`: the maps of each image of `predict`, on a scale of its own.

    Args:
        num_samples: how many images of each test set are shown, spread over it. In a run on several processes they
            come from the first one's share.
    """

    def __init__(self, num_samples: int = 4) -> None:
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples}, must be at least 1")
        self.num_samples = num_samples
        self._sets: dict[str, Spread] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, SemanticSegmentation):
            raise UserError(f"callbacks: AnomalyResults is for SemanticSegmentation, not {type(pl_module).__name__}")
        self._folder = run_folder(trainer)
        pl_module.keeps_anomaly_maps = True

    # test

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted test may have left."""
        self._sets = {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the few images to show."""
        if "anomaly_maps" not in outputs or not trainer.is_global_zero:
            return
        for index, (name, dataset) in enumerate(zip(batch["name"], batch["dataset"], strict=True)):
            if name and self._sets.setdefault(dataset, Spread(self.num_samples)).offers_place():
                maps, truth = outputs["anomaly_maps"][index], batch["anomaly"][index]
                self._sets[dataset].keep(small(name, batch["image"][index], maps, truth))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws them."""
        assert isinstance(pl_module, SemanticSegmentation)
        for dataset, images in self._sets.items():
            samples = images.chosen()
            ranges = score_ranges([sample.maps for sample in samples])
            for number, sample in enumerate(samples, start=1):
                legend = scale_legend(pl_module.anomalies.scores, ranges) + TRUTH_LEGEND
                picture = grid(*row(sample, pl_module.anomalies.scores, ranges), [sample.name], legend)
                stem = picture_path(dataset).with_suffix("").as_posix().replace("/", "_")
                save_picture(picture, self._folder / "pictures" / f"anomaly_{stem}_{number}.png")
        self._sets = {}

    # predict

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes each image's picture; every process writes its own share."""
        assert isinstance(pl_module, SemanticSegmentation)
        for index, name in enumerate(batch["name"]):
            if name:
                sample = small(name, batch["image"][index], outputs["anomaly_maps"][index])
                ranges = score_ranges([sample.maps])
                legend = scale_legend(pl_module.anomalies.scores, ranges)
                picture = grid(*row(sample, pl_module.anomalies.scores, ranges), [name], legend)
                save_picture(picture, self._folder / "predictions" / "anomaly" / picture_path(name))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says where the pictures are."""
        if trainer.is_global_zero:
            log.info("Maps of the anomaly scores are in %s", self._folder / "predictions" / "anomaly")


def small(name: str, image: Tensor, maps: Tensor, truth: Tensor | None = None) -> ScoredImage:
    """A sample for a picture: (3, H, W), (S, H, W), (H, W) shrunk to the width of a cell, on the CPU."""
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
    """(S, 2): from where to where the scores of some maps, (S, h, w) each, lie, but for a few pixels."""
    pixels = torch.cat([of_image.flatten(1) for of_image in maps], dim=1).sort(dim=1).values
    last = pixels.shape[1] - 1
    return pixels[:, [round(LOWEST * last), round(HIGHEST * last)]]


def heat(scores: Tensor, lowest: float, highest: float) -> Tensor:
    """Colours, uint8 (3, h, w), of scores (h, w): dark at and below `lowest`, bright at and above `highest`."""
    place = ((scores - lowest) / max(highest - lowest, 1e-12)).clamp(0, 1) * (len(SCALE) - 1)
    below = place.floor().long().clamp(max=len(SCALE) - 2)
    colors = torch.tensor(SCALE, dtype=torch.float32)
    return colors[below].lerp(colors[below + 1], (place - below)[..., None]).round().to(torch.uint8).permute(2, 0, 1)


def row(sample: ScoredImage, scores: Sequence[str], ranges: Tensor) -> tuple[list[list[Tensor]], list[str]]:
    """The pictures of a sample, in one row, and their titles: image, truth if it is known, a map for each score."""
    pictures, titles = [sample.image], ["image"]
    if sample.truth is not None:
        # 255 would not be painted
        classes = torch.where(sample.truth > 1, 2, sample.truth)
        pictures.append(overlay(sample.image, classes, [None, ANOMALY, IGNORED_GREY], alpha=0.7))
        titles.append("truth")
    for name, scored, (lowest, highest) in zip(scores, sample.maps, ranges.tolist(), strict=True):
        pictures.append(heat(scored, lowest, highest))
        titles.append(name)
    return [pictures], titles


def scale_legend(scores: Sequence[str], ranges: Tensor) -> list[tuple[str, Color]]:
    """The ends of the colour scale, and which value of each score they stand for; ranges: (S, 2)."""
    ends = [", ".join(f"{name} {end:.3g}" for name, end in zip(scores, of_end, strict=True)) for of_end in ranges.T]
    return [(f"least anomalous: {ends[0]}", SCALE[0]), (f"most: {ends[1]}", SCALE[-1])]
