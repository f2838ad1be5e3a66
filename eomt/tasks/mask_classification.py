"""What the tasks of mask classification share: EoMT's loss, its masked attention, and its output as one tensor."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from eomt.errors import UserError, listed
from eomt.lora.config import LoRAConfig
from eomt.losses import MaskClassificationLoss
from eomt.losses.point_targets import PointTargets
from eomt.models.eomt import EoMT, Prediction, anneal, class_scores
from eomt.tasks.base import AdaptationTask
from eomt.utils.trainer import run_progress

Images = Tensor | list[Tensor]
"""B images or masks: one tensor, or a list if they differ in size."""


class MaskClassification(AdaptationTask):
    """Training of an EoMT, each query of which answers for a class or an object.

    Args:
        network: An EoMT.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        mask_weight: Weight of the cross-entropy of masks in the loss.
        dice_weight: Weight of the Dice loss of masks.
        class_weight: Weight of the class loss.
        no_object_weight: Weight of unmatched queries in the class loss.
        num_points: Number of points of an image at which masks are compared.
        mask_annealing: For each block the start and the end of switching off its masked attention, as fractions of the
            run; None takes (i + 1) / (L2 + 2) to (i + 2) / (L2 + 2) for block i of L2, as the authors do.
        class_weights: C weights of the classes in the class loss, for rare classes; None weighs all equally.
        **training: Further arguments of AdaptationTask: lr, head_lr, weight_decay, layer_decay, schedule, warmup,
            compile, memory, feature_cache, feature_folder.

    Raises:
        UserError: For a value that is not allowed.
    """

    network_class = EoMT
    network: EoMT

    def __init__(
        self,
        network: EoMT,
        lora_config: LoRAConfig | None = None,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        class_weight: float = 2.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        mask_annealing: list[tuple[float, float]] | None = None,
        class_weights: list[float] | None = None,
        **training: Any,
    ) -> None:
        super().__init__(network, lora_config, **training)
        blocks = network.num_blocks
        # as the authors do: one block after another, after and before a part of the run of the same length
        self.mask_annealing = mask_annealing or [
            ((i + 1) / (blocks + 2), (i + 2) / (blocks + 2)) for i in range(blocks)
        ]
        if num_points < 1:
            raise UserError(f"num_points: {num_points}; must be at least 1")
        if len(self.mask_annealing) != blocks or not all(0 <= a < b <= 1 for a, b in self.mask_annealing):
            raise UserError(
                f"mask_annealing: [{listed(self.mask_annealing)}]; must be {blocks} pairs of 0 <= start < end <= 1"
            )
        self.criterion = MaskClassificationLoss(
            network.num_classes, mask_weight, dice_weight, class_weight, no_object_weight, num_points
        )
        if class_weights is not None:
            _check_weights(class_weights, network.num_classes)
            self.criterion.class_weights[:-1] = torch.tensor(class_weights)
        self.evaluation_loss = MeanMetric()

    def windows(self, image: Images) -> Tensor:
        """Return images as the network sees them in evaluation, uint8 `(B, 3, h, w)`, one window of each."""
        raise NotImplementedError

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the class scores of one window of each image, `(B, C, h, w)`.

        Masked attention is switched off, since its threshold would turn a rounding error into another mask.
        """
        assert isinstance(network, EoMT)
        image = self.windows(batch["image"])
        probabilities = network.attn_mask_probs.clone()
        network.attn_mask_probs.zero_()
        try:
            return class_scores(network(image)[-1])
        finally:
            network.attn_mask_probs.copy_(probabilities)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the probability of masked attention of each block for this point of the run."""
        if self.network.masked_attn_enabled:
            probabilities = anneal(self.mask_annealing, run_progress(self.trainer))
            self.network.attn_mask_probs.copy_(torch.tensor(probabilities), non_blocking=True)

    def repeatable_loss(self, prediction: Prediction, truth: Tensor | PointTargets) -> Tensor:
        """Return the loss of the final layer, at the same points in every evaluation; the global RNG is unchanged."""
        masks = prediction.mask_logits
        with torch.random.fork_rng([masks.device] if masks.is_cuda else []):
            torch.manual_seed(0)
            return self.criterion([tuple(prediction)], truth)["loss"]


def _check_weights(class_weights: list[float], num_classes: int) -> None:
    if len(class_weights) != num_classes or not all(0 < weight < math.inf for weight in class_weights):
        raise UserError(
            f"class_weights: [{listed(class_weights)}]; must be {num_classes} numbers above 0, one for each class"
        )
