"""Segmentation with SAM 2: of prompted objects, or of classes without prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from eomt.errors import UserError, listed
from eomt.lora.config import LoRAConfig
from eomt.losses.prompted_masks import PromptedMaskLoss, sum_of
from eomt.metrics import PromptedSegmentationMetric
from eomt.metrics.class_answers import ClassAnswers
from eomt.metrics.constant_answers import RIVALS, BestConstantRule
from eomt.models.parts.sam2_outputs import SAM2Features, SAM2Prediction, most_likely, worth_answering
from eomt.models.sam2 import SAM2
from eomt.prompts import (
    MODES,
    Prompts,
    PromptSampling,
    add_correction,
    evaluation_prompts,
    sample_objects,
    sample_prompts,
    stack_prompts,
)
from eomt.prompts.prompts_alone import NUM_RADII, masks_of_prompts
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import data_of
from eomt.tasks.index_maps import index_maps
from eomt.tasks.prompted_answers import answer_batch, refuse_without_prompts, say_if_squashed
from eomt.tasks.prompted_figures import Mode, figures_to_log, notes_of_classes, notes_of_prompts, watched_mode
from eomt.tasks.synthetic import rectangles
from eomt.verification.memory import repeated

# of the loss of class masks: with 1, three quarters of which are of absent classes, all masks became empty
ABSENT_MASKS = 0.2


class PromptedSegmentation(AdaptationTask):
    """Training of a SAM2 on random prompts, and its evaluation on fixed prompts.

    Prompts of training are drawn as SAM 2's own trainer draws them. Those of evaluation never change.

    Batches: `image`, uint8 `(B, 3, H, W)` of the network's size; `masks`, a list of bool `(N_i, h, w)`, in training of
    the network's size, in evaluation of the file's size; `class_ids`, a list of int64 `(N_i,)`; `name`.

    Each mode of evaluation has its own metrics, `val_<mode>_...`; `val_iou`, `val_dice` and `val_loss` are those of the
    mode `watch`. Prompts and classes come from the true masks, so the metrics tell how well the network outlines an
    object that someone has pointed at; `val_box_filled_iou` and `val_centre_disc_iou` beside them are what the prompt
    alone gives. Only a `prompt_free` network finds objects, in the mode `none`: watched, `val_none_kaggle_dice` selects
    the best step, since it falls with each false alarm. With another network the mode shows what the pre-trained one
    predicts without a prompt.

    Args:
        network: A SAM2.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        weight_decay: See AdaptationTask.
        sampling: How objects are prompted in training; None takes the defaults.
        modes: Prompts of evaluation: box (tight), centre (one click inside), points (three), none.
        watch: The mode that selects the best step and stops early; None takes "none" if `prompt_free`, else the first.
        prompt_seed: Seed of the points for evaluation.
        focal_weight: Weight of the focal loss.
        dice_weight: Weight of the Dice loss.
        iou_weight: Weight of the loss of predicted IoUs.
        object_weight: Weight of the loss of object scores.
        **training: Further arguments of AdaptationTask: lr, head_lr, schedule, warmup, compile, memory,
            feature_cache, feature_folder.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_iou"
    file_metrics = ("iou", "dice")
    data_target = "prompted"
    has_background, can_shard = True, False  # divided, PyTorch crashes in its first step
    network_class = SAM2
    network: SAM2

    def __init__(
        self,
        network: SAM2,
        lora_config: LoRAConfig | None = None,
        weight_decay: float = 0.01,
        sampling: PromptSampling | None = None,
        modes: Sequence[Mode] = ("box", "centre", "points", "none"),
        watch: Mode | None = None,
        prompt_seed: int = 0,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        iou_weight: float = 1.0,
        object_weight: float = 1.0,
        **training: Any,
    ) -> None:
        if not modes or set(modes) - set(MODES) or len(set(modes)) < len(modes):
            raise UserError(f"modes: {listed(map(repr, modes))}; must be some of {', '.join(MODES)}, each once")
        super().__init__(network, lora_config, weight_decay=weight_decay, **training)
        watch = watched_mode(watch, modes, network.prompt_free)
        self.sampling = sampling or PromptSampling()
        self.modes, self.watch, self.prompt_seed = [*modes], watch, prompt_seed
        if self._finds_classes(self.watch):
            self.monitor, self.file_metrics = "val_none_kaggle_dice", ("none_kaggle_dice", "iou")
        self.criterion = PromptedMaskLoss(focal_weight, dice_weight, iou_weight, object_weight)
        self.train_iou = MeanMetric()
        self.evaluation_loss = MeanMetric()
        # `setup` creates them, since they need the classes of the data
        self.metrics: dict[str, PromptedSegmentationMetric] = {}
        self.rivals: Mapping[str, BestConstantRule] = nn.ModuleDict(  # type: ignore[assignment]
            {mode: BestConstantRule(1 if mode == "box" else NUM_RADII) for mode in self.modes if mode in RIVALS}
        )
        self._said_squashed = False
        self.class_answers = ClassAnswers(network.num_classes or 0)

    def setup(self, stage: str) -> None:
        """Create a metric for each mode, with the classes of the data.

        Raises:
            UserError: Nothing tells `predict` what to look for; on every rank.
        """
        super().setup(stage)
        data = data_of(self.trainer)
        assert data is not None
        if stage == "predict" and not self.network.prompt_free:
            refuse_without_prompts(data)
        names = data.class_names or ()
        self.metrics = {mode: PromptedSegmentationMetric(dict(enumerate(names))) for mode in self.modes}

    # -- training ----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Return the losses of randomly prompted objects and, for a prompt-free network, of the classes."""
        features = self.network.encode(batch["image"])
        targets, valid = sample_objects(batch["masks"], self.sampling.max_objects)
        prompts = sample_prompts(targets, valid, self.sampling)
        losses, logits = self._losses_of_clicks(features, prompts, targets, valid)
        if self.network.prompt_free:
            losses = self._with_class_losses(losses, features, batch)
        return losses, (logits, targets, valid)

    def audit_losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the losses of both kinds of first prompts, if training draws both.

        A box alone would not use the three masks that the network predicts for a point.
        """
        features = self.network.encode(batch["image"])
        targets, valid = sample_objects(batch["masks"], self.sampling.max_objects)
        probability = self.sampling.box_probability
        total: dict[str, Tensor] = {}
        for kind in {float(probability > 0), float(probability == 1)}:
            sampling = PromptSampling(kind, correction_clicks=self.sampling.correction_clicks)
            prompts = sample_prompts(targets, valid, sampling)
            total = sum_of(total, self._losses_of_clicks(features, prompts, targets, valid)[0])
            if prompts.boxes is None:
                # of three masks only the best one learns, and in a small batch one may never be the best
                prediction = self.network.decode(features, *prompts, multimask=True)
                total = sum_of(total, self.criterion.of_each_mask(*prediction, targets, valid))
        return self._with_class_losses(total, features, batch) if self.network.prompt_free else total

    def _losses_of_clicks(
        self, features: SAM2Features, prompts: Prompts, targets: Tensor, valid: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses, summed over the first prompt and its corrections, and the first logits, `(B, N, h, w)`."""
        # one click is ambiguous and gets three masks; any other prompt gets one
        prediction = self.network.decode(features, *prompts, multimask=prompts.boxes is None)
        losses = self.criterion(*prediction, targets, valid)
        first = logits = most_likely(prediction)
        for _ in range(self.sampling.correction_clicks):
            prompts = add_correction(prompts, logits, targets, valid)
            prediction = self.network.decode(features, *prompts, masks=logits.detach()[:, :, None], multimask=False)
            losses = sum_of(losses, self.criterion(*prediction, targets, valid))
            logits = prediction.mask_logits[:, :, 0]
        return losses, first.detach()

    def _with_class_losses(
        self, losses: dict[str, Tensor], features: SAM2Features, batch: dict[str, Any]
    ) -> dict[str, Tensor]:
        targets = torch.stack([masks for masks, _ in self._truths(batch, "none")])
        valid = targets.new_ones(targets.shape[:2])
        of_classes = self.criterion(*self.network.decode_classes(features), targets, valid, ABSENT_MASKS)
        named = {f"class_{name}": value for name, value in of_classes.items() if name != "loss"}
        return losses | named | {"loss": losses["loss"] + of_classes["loss"]}

    def is_supervised(self, batch: dict[str, Any]) -> bool:
        """Return whether a batch has an object; a prompt-free network also learns from images without one."""
        return self.network.prompt_free or any(len(masks) for masks in batch["masks"])

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images with a rectangle for as many objects as training takes of an image."""
        return rectangles(batch_size, self.sampling.max_objects, *self.network.img_size)

    def first_samples(self, batch: dict[str, Any], size: int) -> dict[str, Any]:
        """Return the image with the most objects `size` times: training fills the others up to as many."""
        counts = [*map(len, batch["masks"])]
        return repeated(batch, counts.index(max(counts)), size)

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return mask logits, predicted IoUs and object scores for a fixed box and a fixed click, `(B, K)`.

        Those of the classes follow for a prompt-free network.
        """
        assert isinstance(network, SAM2)
        features = network.encode(batch["image"])
        height, width = network.img_size
        size = len(batch["image"])
        box = torch.tensor([width // 4, height // 4, width // 2, height // 2], device=features.embedding.device)
        click = box[:2].float().expand(size, 1, 1, 2)
        labels = torch.ones(size, 1, 1, dtype=torch.int32, device=box.device)
        predictions = [
            network.decode(features, boxes=box.float().expand(size, 1, 4), multimask=False),
            network.decode(features, click, labels, multimask=True),
        ]
        if network.prompt_free:
            predictions.append(network.decode_classes(features))
        return torch.cat([part.flatten(1) for prediction in predictions for part in prediction], 1)

    def audit_answers(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return, of a prompt-free network and a batch with objects, whether classes are answered, and their masks."""
        assert isinstance(network, SAM2)
        if not network.prompt_free or not any(len(masks) for masks in batch["masks"]):
            return {}
        prediction = network.decode_classes(network.encode(batch["image"]))
        gate = worth_answering(prediction).float() - 0.5
        return {"gate": gate, "classes": prediction.mask_logits[:, :, 0].movedim(1, -1)}

    @torch.no_grad()
    def training_metrics(self, batch: dict[str, Any], output: Any) -> None:
        """Log `train_iou`, the mean over objects after the first prompt."""
        logits, targets, valid = output
        found = F.interpolate(logits, targets.shape[-2:], mode="bilinear") > 0
        union = (found | targets).sum((2, 3)).clamp(min=1)
        self.train_iou.update((found & targets).sum((2, 3)) / union, valid.float())
        if self.ends_logged_step():
            self.log("train_iou", self.train_iou.compute(), prog_bar=True)
            self.train_iou.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metrics of every mode; return `prediction`, `mask` and `prompts`, see `predict_step`."""
        return self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of every mode."""
        self._log_metrics("val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Add a batch to the metrics of every mode; return `prediction`, `mask` and `prompts`, see `predict_step`."""
        return self._evaluate(batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of every mode."""
        self._log_metrics("test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Return what is found: of the prompts in the batch or, without any, of a prompt-free network's classes.

        Batches: `image`; `size`, a list of the files' (height, width); `name`; and with prompts `prompts`, a list of
        Prompts in the files' pixels, or None, `labels` and `class_ids`, None if a label of the image is no class.

        Returns:
            `objects`: for each image its FoundObjects. `prediction`: for each image int64 `(H, W)` of the file's size,
            0 = background, else class id + 1, or the number of the object where labels are no classes. `prompts`: for
            each image its Prompts; none where nothing is asked.
        """
        if not self._said_squashed:
            self._said_squashed = say_if_squashed(batch, self.network.img_size)
        objects = answer_batch(self.network, batch, self.network.class_names or ())
        maps = [found.index_map() for found in objects]
        return {"prediction": maps, "objects": objects, "prompts": batch.get("prompts", [])}

    def _evaluate(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Evaluate every mode on features that are computed once; return maps and prompts of the watched mode."""
        features = self.network.encode(batch["image"])
        shown: dict[str, Any] = {}
        for mode, metric in self.metrics.items():
            truths = self._truths(batch, mode)
            prompts = self._prompts(batch, truths, mode)
            prediction = self._answer(features, truths, prompts, mode)
            found = self._found(prediction, truths, mode)
            for masks, (truth, class_ids), name in zip(found, truths, batch["name"], strict=True):
                metric.update(masks, truth, name, class_ids.tolist())
            self._measure_rivals(prediction, truths, prompts, batch["name"], mode)
            if mode == self.watch:
                shown = {"prediction": index_maps(found, truths), "prompts": prompts}
                self._update_loss(prediction, truths, batch["name"])
        return shown | {"mask": index_maps(batch["masks"], self._truths(batch, "box"))}

    def _finds_classes(self, mode: str) -> bool:
        return mode == "none" and self.network.prompt_free

    def _truths(self, batch: dict[str, Any], mode: str) -> list[tuple[Tensor, Tensor]]:
        """Return the true masks, bool `(N, H, W)`, and the class ids of each image.

        A prompt-free network without prompts predicts every class, so there the masks of absent classes are included.
        """
        pairs = list(zip(batch["masks"], batch["class_ids"], strict=True))
        if not self._finds_classes(mode):
            return pairs
        found = []
        for masks, class_ids in pairs:
            every = masks.new_zeros(self.network.num_classes or 0, *masks.shape[-2:])
            for mask, class_id in zip(masks, class_ids, strict=True):
                every[class_id] |= mask  # several objects may be of one class
            found.append((every, torch.arange(len(every), device=every.device)))
        return found

    def _prompts(self, batch: dict[str, Any], truths: list[tuple[Tensor, Tensor]], mode: str) -> list[Prompts]:
        """Return the prompts of each image in pixels of its file; none where classes are found."""
        if self._finds_classes(mode):
            return []
        return [
            evaluation_prompts(masks, name, class_ids.tolist(), mode, self.prompt_seed)
            for (masks, class_ids), name in zip(truths, batch["name"], strict=True)
        ]

    def _answer(
        self, features: SAM2Features, truths: list[tuple[Tensor, Tensor]], prompts: list[Prompts], mode: str
    ) -> SAM2Prediction | None:
        """Return the prediction for the prompts of a mode; None if no image has an object to prompt."""
        if self._finds_classes(mode):
            return self.network.decode_classes(features)
        if not any(len(masks) for masks, _ in truths):
            return None
        scaled = [
            given.scaled((masks.shape[-2], masks.shape[-1]), self.network.img_size)
            for given, (masks, _) in zip(prompts, truths, strict=True)
        ]
        return self.network.decode(features, *stack_prompts(scaled), multimask=False)

    def _measure_rivals(
        self,
        prediction: SAM2Prediction | None,
        truths: list[tuple[Tensor, Tensor]],
        prompts: list[Prompts],
        names: list[str],
        mode: str,
    ) -> None:
        """Measure what the prompts alone give or, where there are none, whether classes get answers of their own."""
        for index, ((masks, _), name) in enumerate(zip(truths, names, strict=True)):
            if not name:
                continue
            if self._finds_classes(mode):
                assert prediction is not None
                self.class_answers.update(prediction.mask_logits[index, :, 0], prediction.object_logits[index, :, 0])
            elif mode in RIVALS and len(masks):
                size = (masks.shape[-2], masks.shape[-1])
                self.rivals[mode].update(masks_of_prompts(prompts[index], size), masks)

    def _found(self, prediction: SAM2Prediction | None, truths: list[tuple[Tensor, Tensor]], mode: str) -> list[Tensor]:
        """Return the predicted masks of each image, bool `(N, H, W)`, at the size of its true masks."""
        if prediction is None:
            return [masks for masks, _ in truths]
        found = []
        for index, (masks, _) in enumerate(truths):
            logits = prediction.mask_logits[index, : len(masks)]  # (N, 1, h, w)
            if len(masks):
                logits = F.interpolate(logits, masks.shape[-2:], mode="bilinear")
            answer = logits[:, 0] > 0 if len(masks) else masks
            if self._finds_classes(mode):
                # no prompt says that there is an object
                answer = answer & worth_answering(prediction)[index, :, None, None]
            found.append(answer)
        return found

    def _update_loss(
        self, prediction: SAM2Prediction | None, truths: list[tuple[Tensor, Tensor]], names: list[str]
    ) -> None:
        """Add the loss of each image with objects; samples without a name only complete the last step of a rank."""
        for index, ((masks, _), name) in enumerate(zip(truths, names, strict=True)):
            if prediction is not None and name and len(masks):
                answer = [part[index : index + 1, : len(masks)] for part in prediction]
                losses = self.criterion(*answer, masks[None], masks.new_ones(1, len(masks)))
                self.evaluation_loss.update(losses["loss"])

    def _log_metrics(self, stage: str) -> None:
        for mode, metric in self.metrics.items():
            figures = metric.compute()
            finds_classes = self._finds_classes(mode)
            figures = figures_to_log(figures, self.trainer.state.fn == "fit", finds_classes)
            if mode in RIVALS:
                figures |= {f"{RIVALS[mode]}_{name}": value for name, value in self.rivals[mode].compute().items()}
                self.rivals[mode].reset()
            if finds_classes:
                figures |= self.class_answers.compute()
                self.class_answers.reset()
            # the metric has gathered from all ranks already; sync_dist only tells Lightning so
            self.log_dict({f"{stage}_{mode}_{name}": value for name, value in figures.items()}, sync_dist=True)
            if mode == self.watch:
                watched = {f"{stage}_{name}": figures[name] for name in ("iou", "dice")}
                self.log_dict(watched, prog_bar=True, sync_dist=True)
            metric.reset()
        self.log(f"{stage}_loss", self.evaluation_loss.compute(), sync_dist=True)
        self.evaluation_loss.reset()

    def notes(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """Say where the prompts came from and what they give alone, or what an empty answer gives."""
        own = {name.removeprefix(f"{stage}_{self.watch}_"): float(value) for name, value in figures.items()}
        finds = self._finds_classes(self.watch)
        return notes_of_classes(own, stage) if finds else notes_of_prompts(own, stage, self.watch)
