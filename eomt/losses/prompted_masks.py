"""The criterion of SAM 2 for prompted objects: focal, dice, predicted IoU and object score."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eomt.utils.distributed import batch_count

FOCAL_ALPHA = 0.25
"""The weight of the object's pixels in the focal loss; those of the background have 1 - alpha. Gamma is 2."""


class PromptedMaskLoss(nn.Module):
    """Losses of the masks predicted for one prompt per object, the best of M being the one that learns.

    As in SAM 2 (Ravi et al., 2024): of the masks proposed for an object, only the one with the least focal + dice loss
    (weighted) is supervised, so that an ambiguous prompt may keep several answers. The IoU that is predicted for each
    mask, best or not, is compared with the mask's actual one, and the object score with whether there is an object at
    all; without one, masks and IoUs are not supervised.

    Masks are compared at the size of the targets, in float32, under autocast as well. Only the best one is kept in the
    graph, at the size of its logits: what is larger is computed again in the backward pass.
    """

    def __init__(
        self,
        focal_weight: float = 20.0,
        dice_weight: float = 1.0,
        iou_weight: float = 1.0,
        object_weight: float = 1.0,
    ) -> None:
        """Set up the criterion.

        Args:
            focal_weight: Weight of the focal loss, in the choice of the best mask and in the loss.
            dice_weight: Weight of the dice loss, likewise.
            iou_weight: Weight of the absolute error of the predicted IoU.
            object_weight: Weight of the binary cross entropy of the object score.
        """
        super().__init__()
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.iou_weight = iou_weight
        self.object_weight = object_weight

    def forward(
        self,
        mask_logits: Tensor,
        iou_scores: Tensor,
        object_logits: Tensor,
        targets: Tensor,
        valid: Tensor,
        absent_masks: float = 0.0,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch, per object: sums divided by the number of objects, averaged over the ranks.

        In a distributed run every rank must call this equally often in training.

        Args:
            mask_logits: `(B, N, M, h, w)`.
            iou_scores: Predicted IoUs `(B, N, M)`.
            object_logits: `(B, N, 1)`.
            targets: bool `(B, N, H, W)`.
            valid: Which places hold an object (perhaps an empty one), bool `(B, N)`; the others contribute nothing.
            absent_masks: Share of the focal loss by which the masks of empty objects learn to be empty. A prompt on
                nothing may be answered by anything; the mask of a class should not lie on an object of another class.

        Returns:
            `loss`: the weighted sum, to be minimized. `focal_loss`, `dice_loss`, `iou_loss`, `object_loss`: its parts,
            unweighted, detached.
        """
        with torch.autocast(device_type=targets.device.type, enabled=False):
            mask_logits, iou_scores, object_logits = map(at_least_float32, (mask_logits, iou_scores, object_logits))
            best_logits, actual_iou = mask_logits[:, :, 0], None
            if mask_logits.shape[2] > 1:
                with torch.no_grad():
                    # mask by mask: one enlarged mask per object at a time
                    compared = [compare(masks, targets) for masks in mask_logits.unbind(dim=2)]
                    focal, dice, actual_iou = (torch.stack(values, dim=2) for values in zip(*compared, strict=True))
                    best = (self.focal_weight * focal + self.dice_weight * dice).argmin(dim=2)  # (B, N)
                best_logits = mask_logits.take_along_dim(best[:, :, None, None, None], dim=2).squeeze(2)
            focal, dice, iou = checkpoint(compare, best_logits, targets, use_reentrant=False, preserve_rng_state=False)
            actual_iou = iou[:, :, None] if actual_iou is None else actual_iou

            occupied = targets.any(dim=3).any(dim=2)
            present = valid & occupied
            count = valid.sum().to(focal.dtype)
            normalizer = batch_count(count, self.training)
            iou_error = (iou_scores - actual_iou).abs().mean(dim=2)
            object_error = F.binary_cross_entropy_with_logits(
                object_logits.squeeze(2), occupied.to(object_logits.dtype), reduction="none"
            )
            focal_loss, dice_loss, iou_loss, object_loss = (
                (values * counted).sum() / normalizer
                for values, counted in (
                    (focal, present + absent_masks * (valid & ~occupied)),
                    (dice, present),
                    (iou_error, present),
                    (object_error, valid),
                )
            )
            loss = self.focal_weight * focal_loss + self.dice_weight * dice_loss
            loss = loss + self.iou_weight * iou_loss + self.object_weight * object_loss
        return {
            "loss": loss,
            "focal_loss": focal_loss.detach(),
            "dice_loss": dice_loss.detach(),
            "iou_loss": iou_loss.detach(),
            "object_loss": object_loss.detach(),
        }

    def of_each_mask(
        self, mask_logits: Tensor, iou_scores: Tensor, object_logits: Tensor, targets: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        """Return the sum of the losses of M masks, each as if it were the only one; see `forward`."""
        total: dict[str, Tensor] = {}
        for mask, score in zip(mask_logits.split(1, dim=2), iou_scores.split(1, dim=2), strict=True):
            total = sum_of(total, self(mask, score, object_logits, targets, valid))
        return total


def sum_of(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums of losses by name; `first` may be empty."""
    return {name: first[name] + value if first else value for name, value in second.items()}


def compare(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compare masks with targets at the targets' size.

    Args:
        logits: `(B, N, h, w)`, enlarged bilinearly.
        targets: bool `(B, N, H, W)`.

    Returns:
        Three tensors `(B, N)`. The focal loss (Lin et al., ICCV 2017), mean over the pixels. The dice loss
        1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) of probabilities p and targets t. The IoU of the mask thresholded
        at logit 0, without gradient; 0 if both are empty.
    """
    logits = F.interpolate(logits, targets.shape[-2:], mode="bilinear")
    error_logits = torch.where(targets, -logits, logits)
    error = error_logits.sigmoid()  # |p - t|, whose sum is sum(p) + sum(t) - 2 sum(p t)
    # softplus(error_logits) is the cross entropy, and error one minus the probability of the truth
    focal = error.square() * F.softplus(error_logits) * torch.where(targets, FOCAL_ALPHA, 1 - FOCAL_ALPHA)
    pixels = (2, 3)
    area = targets.sum(dim=pixels)
    dice = error.sum(dim=pixels) / (logits.sigmoid().sum(dim=pixels) + area + 1)
    with torch.no_grad():
        predicted = logits > 0
        intersection = (predicted & targets).sum(dim=pixels)
        union = predicted.sum(dim=pixels) + area - intersection
    return focal.mean(dim=pixels), dice, intersection.to(logits.dtype) / union.clamp(min=1)


def at_least_float32(values: Tensor) -> Tensor:
    """Return values of lower precision in float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
