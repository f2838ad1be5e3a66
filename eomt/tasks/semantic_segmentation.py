"""Semantic segmentation with EoMT."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.losses.outlier_exposure import outlier_loss
from eomt.metrics import SegmentationMetric
from eomt.metrics.anomaly import AnomalyMetric
from eomt.metrics.anomaly_scores import SCORES
from eomt.models.eomt import (
    EoMT,
    Prediction,
    class_and_void_scores,
    class_scores,
)
from eomt.tasks.anomaly_evaluation import (
    AnomalyEvaluation,
    auprc_by_temperature,
    best_temperature,
    flat_figures,
    report_anomalies,
)
from eomt.tasks.data import AnomalyData, data_of
from eomt.tasks.mask_classification import Images, MaskClassification
from eomt.utils.labels import IGNORE_INDEX, most_likely_classes
from eomt.utils.windows import (
    ImageResult,
    View,
    WindowResult,
    covering_size,
    make_views,
    over_views,
    over_windows,
    resize_image,
)

log = logging.getLogger("eomt")


class SemanticSegmentation(MaskClassification):
    """Training of an EoMT on index maps, and its evaluation with sliding windows.

    Batches: `image`, uint8 `(B, 3, H, W)`; `mask`, int64 `(B, H, W)`, 255 = ignored; `name`. In evaluation, images and
    masks may be lists. Batches of anomaly sets also have `dataset`, a list of B names, and `anomaly`, 1 = anomalous,
    0 = not, 255 = ignored; they may have no `mask`. IoU is measured on batches with a mask, anomaly scores on batches
    with `anomaly`. See `eomt.metrics.anomaly_scores` for the scores and `eomt.metrics.anomaly` for their figures.

    A validation with anomaly sets tells at which temperature MSP has the best AuPRC. `test` uses the given temperature
    and never chooses one.

    Args:
        network: An EoMT.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        window_batch_size: Number of windows that are evaluated at once.
        test_overlap: Least share of a window that its neighbor covers too, in `test` and `predict`; 0 takes the fewest
            windows, as validation does.
        test_flip: Also evaluate mirrored images in `test` and `predict`, and take the mean of the scores.
        test_scales: Sizes of the image in `test` and `predict`, at least 1, where 1 just covers a window; the mean of
            the scores is taken.
        outlier_weight: Weight of outlier exposure. Above 0, no query may cover the pixels that `outlier`, bool
            `(B, H, W)`, marks in training batches as pasted from other images; `mask` is 255 there.
        anomaly_scores: Scores that are measured on anomaly sets.
        temperature: Temperature of MSP and entropy; None takes 1, and lets `validate` tell which is best.
        normalize_scores: MSP and entropy see class scores L as shares of the classes instead of softmax(L / T); see
            `msp`.
        component_sizes: Pixels of the smallest predicted and the smallest true component that count in anomaly sets
            that SegmentMeIfYouCan does not evaluate; in its own 50 and 10 (obstacle track) or 500 and 100 (anomaly
            track) count.
        **training: Further arguments of MaskClassification, such as num_points and class_weights, and of
            AdaptationTask, such as lr and memory.

    Attributes:
        keeps_anomaly_maps: Whether steps return anomaly maps, which are large; set by who draws them.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_iou"
    file_metrics = ("iou", "dice")
    data_target = "semantic"

    def __init__(
        self,
        network: EoMT,
        lora_config: LoRAConfig | None = None,
        window_batch_size: int = 4,
        test_overlap: float = 0.0,
        test_flip: bool = False,
        test_scales: Sequence[float] = (1.0,),
        outlier_weight: float = 0.0,
        anomaly_scores: Sequence[str] = SCORES,
        temperature: float | None = None,
        normalize_scores: bool = False,
        component_sizes: tuple[int, int] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(network, lora_config, **training)
        if window_batch_size < 1:
            raise UserError(f"window_batch_size: {window_batch_size}; must be at least 1")
        if not 0 <= outlier_weight < math.inf:
            raise UserError(f"outlier_weight: {outlier_weight}; must be at least 0")
        self.window_batch_size = window_batch_size
        self.test_views = make_views(test_overlap, test_flip, test_scales)
        self.outlier_weight = outlier_weight
        self.train_metric = SegmentationMetric(network.num_classes)
        self.val_metric = SegmentationMetric(network.num_classes)
        self.test_metric = SegmentationMetric(network.num_classes)
        self.anomalies = AnomalyEvaluation(anomaly_scores, temperature, normalize_scores, component_sizes)
        self.keeps_anomaly_maps = False

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[Prediction]]:
        """Return the losses, with outlier exposure if it has a weight, and the predictions of all layers.

        Raises:
            UserError: If outlier exposure has a weight and the batch marks no outliers.
        """
        predictions = self.network(batch["image"])
        losses = self.criterion([tuple(prediction) for prediction in predictions], batch["mask"])
        if self.outlier_weight:
            if "outlier" not in batch:
                raise UserError(
                    f"outlier_weight: {self.outlier_weight}, but the training batches have no 'outlier'; give "
                    "a datamodule that pastes outliers in, or 0"
                )
            masks, classes = predictions[-1].mask_logits, predictions[-1].class_logits
            claimed = outlier_loss(masks, classes, batch["outlier"], self.criterion.training)
            total = losses["loss"] + self.outlier_weight * claimed
            losses = losses | {"loss": total, "outlier_loss": claimed.detach()}
        return losses, predictions

    def is_supervised(self, batch: dict[str, Any]) -> bool:
        """Return whether a pixel of a batch has a label."""
        return bool((batch["mask"] != IGNORE_INDEX).any())

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images of the network's size.

        Their masks are of 4 x 4 rectangles, which gives about as many classes as real images have.
        """
        generator = torch.Generator().manual_seed(0)
        size = self.network.img_size
        labels = torch.randint(0, self.network.num_classes, (batch_size, 1, 4, 4), generator=generator)
        return {
            "image": torch.randint(
                0, 256, (batch_size, self.network.in_chans, *size), dtype=torch.uint8, generator=generator
            ),
            "mask": F.interpolate(labels.float(), size, mode="nearest")[:, 0].long(),
            "outlier": torch.arange(size[1]).expand(batch_size, *size) < size[1] // 8,
            "name": [f"synthetic {index}" for index in range(batch_size)],
        }

    def windows(self, image: Images) -> Tensor:
        """Return the first window of each image."""
        assert isinstance(image, Tensor)
        height, width = self.network.img_size
        covered = covering_size((image.shape[-2], image.shape[-1]), (height, width))
        return resize_image(image, covered)[..., :height, :width]

    @torch.no_grad()
    def training_metrics(self, batch: dict[str, Any], output: list[Prediction]) -> None:
        """Log `train_iou`, `train_dice` and `train_accuracy` of the final layer."""
        scores = class_scores(output[-1], tuple(batch["mask"].shape[-2:]))
        self.train_metric.update(most_likely_classes(scores), batch["mask"])
        if self.ends_logged_step():
            figures = self.train_metric.compute()
            self.log_dict({f"train_{name}": figures[name] for name in ("iou", "dice", "accuracy")}, prog_bar=True)
            self.train_metric.reset()

    # -- evaluation --------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Empty the anomaly metric, which an interrupted validation may have left partly filled."""
        self.anomalies.val_metric.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metrics, and return the predictions as in `test_step`."""
        return self._evaluate(batch, self.val_metric, self.anomalies.val_metric)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics and, with anomaly sets, the temperature at which MSP has the best AuPRC."""
        anomalies = self.anomalies.val_metric.compute()
        self.anomalies.val_metric.reset()
        self._log_metric(self.val_metric, "val", bool(anomalies))
        for dataset, figures in anomalies.items():
            for name in self.anomalies.scores:
                self.log(f"val_auprc/{dataset}/{name}", figures[name]["auprc"], sync_dist=True)
        auprc = auprc_by_temperature(anomalies) if self.anomalies.compares_temperatures else {}
        if not auprc:
            return
        best = best_temperature(auprc)
        self.log("val_temperature", best, sync_dist=True)
        if self.trainer.is_global_zero:
            compared = ", ".join(f"{temperature:g}: {value:.4f}" for temperature, value in auprc.items())
            log.info("AuPRC of MSP by temperature: %s", compared)
            log.info("temperature: %g gives MSP the best AuPRC here; give it to test as --model.temperature", best)

    def on_test_epoch_start(self) -> None:
        """Empty the anomaly metric, which an interrupted test may have left partly filled.

        Raises:
            UserError: If `component_sizes` is needed for a set; said before an hour of testing rather than after.
        """
        self.anomalies.test_metric.reset()
        data: object = data_of(self.trainer)
        for name in data.test_sets() if isinstance(data, AnomalyData) else []:
            self.anomalies.test_metric.sizes_for(name)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metrics, and return `prediction`, class ids `(B, H, W)`.

        With `keeps_anomaly_maps`, batches of anomaly sets also return `anomaly_maps`, B of `(S, H, W)`.
        """
        return self._evaluate(batch, self.test_metric, self.anomalies.test_metric, self.test_views)

    def on_test_epoch_end(self) -> None:
        """Log the main metrics and the tables of anomaly scores, and keep all figures for the results file."""
        anomalies = self.anomalies.test_metric.compute()
        self.anomalies.test_metric.reset()
        self._log_metric(self.test_metric, "test", bool(anomalies))
        self.all_figures = flat_figures(anomalies, "test")
        for dataset, figures in anomalies.items():
            for name in self.anomalies.scores:
                self.log(f"test_auprc/{dataset}/{name}", figures[name]["auprc"], sync_dist=True)
            if self.trainer.is_global_zero:
                report_anomalies(dataset, figures)
        if anomalies:
            self.all_figures["test_temperature"] = self.anomalies.temperature
            log.info("MSP and entropy were measured at temperature %g", self.anomalies.temperature)

    def notes(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """Return what color and place alone give, where `callbacks.SegmentationResults` has measured it."""
        color, place, own = (figures.get(f"{stage}_{name}") for name in ("color_iou", "place_iou", "iou"))
        if color is None or place is None or own is None:
            return []
        beaten = "" if own > max(color, place) else ", which the network does not beat"
        return [
            f"Without a network, the most frequent class of each color has {stage}_color_iou {color:.4f}, that of each "
            f"place {stage}_place_iou {place:.4f}{beaten}."
        ]

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return `prediction`, class ids, int64 `(B, H, W)` at the image's size; `anomaly_maps` as in `test_step`."""
        predictions, maps = [], []
        for result in self._results(batch["image"], None, self.test_views):
            predictions.append(most_likely_classes(result.maps[:-1]))
            if self.keeps_anomaly_maps:
                maps.append(self.anomalies.maps(result.maps))
        return {"prediction": _like(batch["image"], predictions)} | ({"anomaly_maps": maps} if maps else {})

    def segment(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the class ids of images of any size, from the mean over windows, and their losses.

        Args:
            image: Images, uint8 `(B, 3, H, W)`.
            mask: Masks, int64 `(B, H, W)`; None computes no losses.

        Returns:
            Class ids, int64 `(B, H, W)`; and losses `(B,)`, each the mean over an image's windows, or None.
        """
        predictions, losses = [], []
        for result in self._results(image, mask):
            predictions.append(most_likely_classes(result.maps[:-1]))
            if result.loss is not None:
                losses.append(result.loss)
        return torch.stack(predictions), torch.stack(losses) if losses else None

    def _results(
        self, images: Images, masks: Images | None, views: Sequence[View] = (View(),)
    ) -> Iterator[ImageResult]:
        """Yield the class and void scores of each image, `(C + 1, H, W)`, from one forward pass per window."""

        def evaluate(image: Tensor, mask: Tensor | None) -> WindowResult:
            found = self.network(image)[-1]
            parts = [Prediction(*(part[k : k + 1] for part in found)) for k in range(len(image))]
            losses = None
            if mask is not None:
                losses = torch.stack([self.repeatable_loss(part, mask[k : k + 1]) for k, part in enumerate(parts)])
            return WindowResult((class_and_void_scores(part, window)[0] for part in parts), losses)

        window = self.network.img_size

        def in_view(view: View) -> Iterator[ImageResult]:
            return over_windows(evaluate, images, masks, window, self.window_batch_size, view)

        return over_views(views, in_view)

    def _evaluate(
        self,
        batch: dict[str, Any],
        metric: SegmentationMetric,
        anomaly_metric: AnomalyMetric,
        views: Sequence[View] = (View(),),
    ) -> dict[str, Any]:
        masks, truths = batch.get("mask"), batch.get("anomaly")
        predictions, maps = [], []
        for index, result in enumerate(self._results(batch["image"], masks, views)):
            predictions.append(most_likely_classes(result.maps[:-1]))
            # samples without a name only complete the last step of a rank, and do not count
            real = bool(batch["name"][index])
            if truths is not None:
                scored = self.anomalies.maps(result.maps)
                if real:
                    self.anomalies.update(anomaly_metric, batch["dataset"][index], result.maps, scored, truths[index])
                if self.keeps_anomaly_maps:
                    maps.append(scored)
                # frees the maps before those of the next image are computed
                del scored
            if masks is not None:
                assert result.loss is not None
                metric.update(predictions[-1], masks[index])
                self.evaluation_loss.update(result.loss, float(real))
        return {"prediction": _like(batch["image"], predictions)} | ({"anomaly_maps": maps} if maps else {})

    def _log_metric(self, metric: SegmentationMetric, stage: str, has_anomalies: bool) -> None:
        figures = metric.compute()
        metric.reset()
        if has_anomalies and figures["accuracy"].isnan():
            # anomaly sets without masks have no IoU
            return
        figures["loss"] = self.evaluation_loss.compute()
        self.evaluation_loss.reset()
        # the metrics have gathered from all ranks already; sync_dist only tells Lightning so
        for name in ("loss", "iou", "dice", "accuracy"):
            self.log(f"{stage}_{name}", figures[name], prog_bar=name != "loss", sync_dist=True)
        data = data_of(self.trainer)
        names = data.class_names if data is not None else None
        # torchmetrics removes the dimension of a tensor with one value
        for index, iou in enumerate(figures["class_iou"].view(-1)):
            self.log(f"{stage}_iou/{names[index] if names else f'class {index}'}", iou, sync_dist=True)


def _like(images: Images, predictions: list[Tensor]) -> Images:
    """Return predictions as one tensor if the images are one tensor, else as a list."""
    return torch.stack(predictions) if isinstance(images, Tensor) else predictions
