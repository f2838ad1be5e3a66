"""Semantic segmentation with EoMT."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from eomt.errors import UserError
from eomt.losses import MaskClassificationLoss
from eomt.metrics import IGNORE_INDEX, SegmentationMetric
from eomt.models.eomt import EoMT, Prediction, anneal, class_scores
from eomt.models.lora_integration import LoRAConfig
from eomt.tasks.base import AdaptationTask
from eomt.tasks.windows import covering_size, resize_image, resize_mask, window_corners


class SemanticSegmentation(AdaptationTask):
    """Trains an EoMT on index maps and evaluates it with sliding windows.

    Batches: `image` uint8 (B, 3, H, W), `mask` int64 (B, H, W) with 255 ignored, `name`.

    Args:
        network: an EoMT.
        mask_weight, dice_weight, class_weight: of the parts of the loss.
        no_object_weight: of unmatched queries in the class loss.
        num_points: points of an image at which masks are compared.
        mask_annealing: per block, the parts of the run where its masked attention starts and ends to be switched off;
            None spreads them evenly as the paper does. Fractions, so that they follow any batch size and length.
        window_batch_size: windows that are evaluated at once.
        lora_config, lr, head_lr, weight_decay, layer_decay, schedule, warmup, compile: see AdaptationTask.
    """

    monitor = "val_iou"
    file_metrics = ("iou", "dice")
    network: EoMT

    def __init__(
        self,
        network: EoMT,
        lora_config: LoRAConfig | None = None,
        lr: float = 1e-3,
        head_lr: float | None = None,
        weight_decay: float = 0.05,
        layer_decay: float = 0.8,
        schedule: Literal["cosine", "poly"] = "cosine",
        warmup: float = 0.1,
        compile: bool = False,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        class_weight: float = 2.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        mask_annealing: list[tuple[float, float]] | None = None,
        window_batch_size: int = 4,
    ) -> None:
        if not isinstance(network, EoMT):
            raise UserError(f"network: {type(network).__name__}, SemanticSegmentation takes eomt.models.EoMT")
        super().__init__(network, lora_config, lr, head_lr, weight_decay, layer_decay, schedule, warmup, compile)
        blocks = network.num_blocks
        # block i is let go in an eighth of the run, beginning at 1/8 + 3/4 i / L2
        self.mask_annealing = mask_annealing or [
            (0.125 + 0.75 * i / blocks, 0.25 + 0.75 * i / blocks) for i in range(blocks)
        ]
        if num_points < 1 or window_batch_size < 1:
            raise UserError(f"num_points, window_batch_size: {num_points}, {window_batch_size}, must be at least 1")
        if len(self.mask_annealing) != blocks or not all(0 <= a < b <= 1 for a, b in self.mask_annealing):
            raise UserError(f"mask_annealing: {mask_annealing!r}, must be {blocks} pairs of 0 <= start < end <= 1")
        self.window_batch_size = window_batch_size
        self.criterion = MaskClassificationLoss(
            network.num_classes, mask_weight, dice_weight, class_weight, no_object_weight, num_points
        )
        self.train_metric = SegmentationMetric(network.num_classes)
        self.val_metric = SegmentationMetric(network.num_classes)
        self.test_metric = SegmentationMetric(network.num_classes)
        self.evaluation_loss = MeanMetric()

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[Prediction]]:
        predictions = self.network(batch["image"])
        return self.criterion([tuple(prediction) for prediction in predictions], batch["mask"]), predictions

    def is_supervised(self, batch: dict[str, Any]) -> bool:
        return bool((batch["mask"] != IGNORE_INDEX).any())

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Noise of the network's image size, and masks of 4 x 4 rectangles: about as many classes as real images."""
        generator = torch.Generator().manual_seed(0)
        size = self.network.img_size
        labels = torch.randint(0, self.network.num_classes, (batch_size, 1, 4, 4), generator=generator)
        return {
            "image": torch.randint(0, 256, (batch_size, 3, *size), dtype=torch.uint8, generator=generator),
            "mask": F.interpolate(labels.float(), size, mode="nearest")[:, 0].long(),
            "name": [f"synthetic {index}" for index in range(batch_size)],
        }

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Class scores of the first window of each image, (B, C, h, w).

        Masked attention is switched off for it: its threshold would turn a rounding error into another mask.
        """
        assert isinstance(network, EoMT)
        image = resize_image(batch["image"], covering_size(tuple(batch["image"].shape[-2:]), network.img_size))
        height, width = network.img_size
        probabilities = network.attn_mask_probs.clone()
        network.attn_mask_probs.zero_()
        try:
            return class_scores(network(image[..., :height, :width])[-1])
        finally:
            network.attn_mask_probs.copy_(probabilities)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.network.masked_attn_enabled:
            progress = self.global_step / max(1, int(self.trainer.estimated_stepping_batches))
            probabilities = anneal(self.mask_annealing, progress)
            self.network.attn_mask_probs.copy_(torch.tensor(probabilities), non_blocking=True)

    @torch.no_grad()
    def training_metrics(self, batch: dict[str, Any], output: list[Prediction]) -> None:
        scores = F.interpolate(class_scores(output[-1]), batch["mask"].shape[-2:], mode="bilinear")
        self.train_metric.update(scores.argmax(1), batch["mask"])
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            figures = self.train_metric.compute()
            self.log_dict({f"train_{name}": figures[name] for name in ("iou", "dice", "accuracy")}, prog_bar=True)
            self.train_metric.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, self.val_metric, "val")

    def on_validation_epoch_end(self) -> None:
        self._log_metric(self.val_metric, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, self.test_metric, "test")

    def on_test_epoch_end(self) -> None:
        self._log_metric(self.test_metric, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """`prediction`: int64 (B, H, W), class ids at the size of the image."""
        return {"prediction": self.segment(batch["image"])[0]}

    def segment(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Class ids of images of any size by averaged windows, and each image's mean loss if `mask` is given.

        Memory is one map of class scores and `window_batch_size` windows, however many windows or queries there are.

        Args:
            image: uint8 (B, 3, H, W). mask: int64 (B, H, W).

        Returns:
            int64 (B, H, W); (B,), the mean over an image's windows, or None.
        """
        size = (image.shape[-2], image.shape[-1])
        window = self.network.img_size
        covered = covering_size(size, window)
        image = resize_image(image, covered)
        mask = None if mask is None else resize_mask(mask, covered)
        crops = [(b, top, left) for b in range(len(image)) for top, left in window_corners(covered, window)]
        scores = torch.zeros(len(image), self.network.num_classes, *covered, device=image.device)
        count = torch.zeros(covered, device=image.device)
        losses: list[Tensor] = []
        for start in range(0, len(crops), self.window_batch_size):
            chunk = crops[start : start + self.window_batch_size]
            areas = [(b, slice(top, top + window[0]), slice(left, left + window[1])) for b, top, left in chunk]
            predictions = self.network(torch.stack([image[b, :, rows, columns] for b, rows, columns in areas]))
            windows = F.interpolate(class_scores(predictions[-1]), window, mode="bilinear")
            for scored, (b, rows, columns) in zip(windows, areas, strict=True):
                scores[b, :, rows, columns] += scored
                if b == 0:
                    count[rows, columns] += 1
            if mask is not None:
                target = torch.stack([mask[b, rows, columns] for b, rows, columns in areas])
                losses += [
                    self._repeatable_loss(Prediction(*(part[k : k + 1] for part in predictions[-1])), target[k : k + 1])
                    for k in range(len(chunk))
                ]
        scores /= count
        if covered != size:
            scores = F.interpolate(scores, size, mode="bilinear")
        return scores.argmax(1), torch.stack(losses).view(len(image), -1).mean(1) if losses else None

    def _repeatable_loss(self, prediction: Prediction, mask: Tensor) -> Tensor:
        """The loss of the final layer, at the same points in every evaluation and without touching the global RNG."""
        devices = [mask.device] if mask.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            return self.criterion([tuple(prediction)], mask)["loss"]

    def _evaluate(self, batch: dict[str, Any], metric: SegmentationMetric, stage: str) -> dict[str, Tensor]:
        prediction, loss = self.segment(batch["image"], batch["mask"])
        metric.update(prediction, batch["mask"])
        assert loss is not None
        # a sample without a name fills up the last step of a rank: it does not count
        weight = torch.tensor([float(bool(name)) for name in batch["name"]], device=loss.device)
        self.evaluation_loss.update(loss, weight)
        return {"prediction": prediction}

    def _log_metric(self, metric: SegmentationMetric, stage: str) -> None:
        figures = metric.compute() | {"loss": self.evaluation_loss.compute()}
        metric.reset()
        self.evaluation_loss.reset()
        # the metrics have summed over the ranks already; sync_dist only tells Lightning so
        for name in ("loss", "iou", "dice", "accuracy"):
            self.log(f"{stage}_{name}", figures[name], prog_bar=name != "loss", sync_dist=True)
        names = getattr(self.trainer.datamodule, "class_names", None)  # type: ignore[attr-defined]
        for index, iou in enumerate(figures["class_iou"]):
            self.log(f"{stage}_iou/{names[index] if names else f'class {index}'}", iou, sync_dist=True)
