"""What instance and panoptic segmentation share: objects in, and one padded window of each image in evaluation."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

from eomt.lora.config import LoRAConfig
from eomt.losses.point_targets import ObjectTargets
from eomt.models.eomt import EoMT, Prediction
from eomt.models.post_processing import Instances, Segments
from eomt.tasks.data import class_names_of
from eomt.tasks.index_maps import index_map
from eomt.tasks.mask_classification import Images, MaskClassification
from eomt.utils.packed_masks import PackedMasks
from eomt.utils.windows import fit_image, fit_masks
from eomt.verification.memory import repeated

log = logging.getLogger("eomt")

Found = TypeVar("Found", Instances, Segments)


class TrueObjects(NamedTuple):
    """The N true objects of an image."""

    masks: PackedMasks
    labels: Tensor  # int64 (N,)
    is_crowd: Tensor  # bool (N,)
    areas: Tensor | None  # float64 (N,), nan for the number of pixels


class ObjectSegmentation(MaskClassification, Generic[Found]):
    """Training of an EoMT on masks of objects, one of which each query answers for.

    Batches: `image`, uint8 `(B, 3, H, W)`, or a list in evaluation; `masks`, B of N masks, packed or bool `(N, H, W)`;
    `labels`, B of int64 `(N,)`; `name`; and in evaluation `is_crowd`, B of bool `(N,)`, regions of many objects, which
    neither the loss nor the metric holds against an answer, and maybe `areas`, B of float64 `(N,)`, which say what is
    small, medium or large, nan for the number of pixels.

    In evaluation an image is fitted into the network's size and padded with zeros, as in the code of EoMT's authors;
    masks are enlarged back to the image a few at a time and packed, and memory grows neither with images nor with
    queries or objects at full size.

    Args:
        network: An EoMT.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        **training: Further arguments of MaskClassification and AdaptationTask.

    Attributes:
        score_threshold: The least score of what is answered.
        figures: Names of the figures that are logged; the first one selects the best step.
        class_figure: Name of the figure of each class.
        val_metric: Metric of validation.
        test_metric: Metric of test.
    """

    has_background = True
    score_threshold: float
    figures: tuple[str, ...]
    class_figure: str
    val_metric: Metric
    test_metric: Metric

    def __init__(self, network: EoMT, lora_config: LoRAConfig | None = None, **training: Any) -> None:
        super().__init__(network, lora_config, **training)
        network.pads_images = True
        self._said_crowded = False

    def found(self, prediction: Prediction, size: tuple[int, int], threshold: float) -> Found:
        """Return what queries found in one image.

        Args:
            prediction: Of one image, `(Q, h, w)` and `(Q, C + 1)`.
            size: Height and width of the image.
            threshold: The least score.
        """
        raise NotImplementedError

    def class_map(self, found: Found) -> Tensor:
        """Return what was found, above `score_threshold`, as a map of class ids + 1, int64 `(H, W)`; 0 is nothing."""
        raise NotImplementedError

    def measure(self, metric: Metric, found: Found, truth: TrueObjects) -> None:
        """Add an image to a metric."""
        raise NotImplementedError

    @property
    def least_measured(self) -> float:
        """The least score of what is measured."""
        return self.score_threshold

    # -- training ----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[Prediction]]:
        """Return the losses, and the predictions of all layers."""
        self._say_if_crowded(max(map(len, batch["labels"])))
        predictions = self.network(batch["image"])
        targets = ObjectTargets(batch["masks"], batch["labels"])
        return self.criterion([tuple(prediction) for prediction in predictions], targets), predictions

    def _say_if_crowded(self, most: int) -> None:
        """Say once that an image shows more objects than there are queries to answer for them."""
        queries = self.network.q.num_embeddings
        if most > queries and not self._said_crowded:
            self._said_crowded = True
            log.warning(
                "num_q: %d queries, but a training image shows %d objects, and those without a query are not learned; "
                "give --model.network.num_q %d or more",
                queries,
                most,
                most,
            )

    def is_supervised(self, batch: dict[str, Any]) -> bool:
        """Return whether a batch has an object; one without says only that there is none."""
        return any(len(labels) for labels in batch["labels"])

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images of the network's size, cut into 4 x 4 rectangles, each an object of a random class."""
        generator = torch.Generator().manual_seed(0)
        height, width = self.network.img_size
        rows, columns = (torch.arange(side) * 4 // side for side in (height, width))
        masks = (rows[:, None] * 4 + columns) == torch.arange(16)[:, None, None]
        masks = masks[masks.flatten(1).any(1)]
        packed = PackedMasks.of(masks)
        return {
            "image": torch.randint(
                0, 256, (batch_size, self.network.in_chans, height, width), dtype=torch.uint8, generator=generator
            ),
            "masks": [packed] * batch_size,
            "labels": [
                torch.randint(0, self.network.num_classes, (len(masks),), generator=generator)
                for _ in range(batch_size)
            ],
            "is_crowd": [torch.zeros(len(masks), dtype=torch.bool) for _ in range(batch_size)],
            "name": [f"synthetic {index}" for index in range(batch_size)],
        }

    def first_samples(self, batch: dict[str, Any], size: int) -> dict[str, Any]:
        """Return the image with the most objects `size` times: it takes the most memory."""
        counts = [*map(len, batch["labels"])]
        return repeated(batch, counts.index(max(counts)), size)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def windows(self, image: Images) -> Tensor:
        """Return each image fitted into the network's size."""
        return torch.stack([fit_image(one, self.network.img_size) for one in image])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metric.

        Returns:
            `prediction` and `mask`, maps of class ids + 1, lists of int64 `(H, W)`; `found`, for each image the
            objects or segments above `score_threshold`, as Instances.
        """
        return self._evaluate(batch, self.val_metric)

    def on_validation_epoch_end(self) -> None:
        """Log the figures of validation."""
        self._log_figures(self.val_metric, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metric; see `validation_step`."""
        return self._evaluate(batch, self.test_metric)

    def on_test_epoch_end(self) -> None:
        """Log the figures of test."""
        self._log_figures(self.test_metric, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return `found`, for each image its Instances or Segments, and `prediction`, maps of class ids + 1."""
        found = [
            self.found(prediction, size, self.score_threshold) for prediction, size in self._predictions(batch["image"])
        ]
        return {"prediction": [self.class_map(one) for one in found], "found": found}

    def _predictions(self, images: Images) -> Iterator[tuple[Prediction, tuple[int, int]]]:
        """Yield the prediction for each image, `(Q, h, w)` and `(Q, C + 1)`, and the size of the image."""
        found = self.network(self.windows(images))[-1]
        for image, *parts in zip(images, *found, strict=True):
            yield Prediction(*parts), (image.shape[-2], image.shape[-1])

    def _evaluate(self, batch: dict[str, Any], metric: Metric) -> dict[str, Any]:
        maps, truths, sure = [], [], []
        samples = zip(self._predictions(batch["image"]), true_objects(batch), batch["name"], strict=True)
        for (prediction, size), truth, name in samples:
            found = self.found(prediction, size, self.least_measured)
            maps.append(self.class_map(found))
            sure.append(found.above(self.score_threshold))
            truths.append(index_map(truth.masks, truth.labels))
            # samples without a name only complete the last step of a rank, and do not count
            if name:
                self.measure(metric, found, truth)
                fitted = fit_masks(truth.masks.where(~truth.is_crowd), self.network.img_size)
                targets = ObjectTargets([fitted], [truth.labels[~truth.is_crowd]])
                one = Prediction(*(part[None] for part in prediction))
                self.evaluation_loss.update(self.repeatable_loss(one, targets))
        return {"prediction": maps, "mask": truths, "found": sure}

    def _log_figures(self, metric: Any, stage: str) -> None:
        figures = metric.compute()
        metric.reset()
        self.log(f"{stage}_loss", self.evaluation_loss.compute(), sync_dist=True)
        self.evaluation_loss.reset()
        # the metric has gathered from all ranks already; sync_dist only tells Lightning so
        for name in self.figures:
            self.log(f"{stage}_{name}", figures[name], prog_bar=name == self.figures[0], sync_dist=True)
        names = class_names_of(self.trainer)
        for name, value in zip(names, figures[f"class_{self.class_figure}"].view(-1), strict=True):
            self.log(f"{stage}_{self.class_figure}/{name}", value, sync_dist=True)


def true_objects(batch: dict[str, Any]) -> Iterator[TrueObjects]:
    """Yield the true objects of each image of a batch."""
    areas = batch.get("areas") or [None] * len(batch["masks"])
    parts = zip(batch["masks"], batch["labels"], crowds_of(batch), areas, strict=True)
    return (TrueObjects(PackedMasks.of(masks), *others) for masks, *others in parts)


def crowds_of(batch: dict[str, Any]) -> Sequence[Tensor]:
    """Return which objects of each image are crowds, B of bool `(N,)`; a batch that says nothing has none."""
    return batch.get("is_crowd") or [torch.zeros_like(of, dtype=torch.bool) for of in batch["labels"]]
