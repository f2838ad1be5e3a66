"""Binary cross entropy and dice loss of masks that are compared at points."""

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot

from eomt.errors import UserError
from eomt.losses.point_sampling import as_rows, sample_each, sample_shared, spread_each

# so many points of all queries, or masks at all their points, stay in the cache of a CPU
POINTS, MASKS = 2048, 16


def at_once(size: int, number: int, device: torch.device) -> int:
    """Return how many of `number` rows are computed at once: on a CPU `size`, elsewhere all, as launches cost more."""
    return size if device.type == "cpu" else max(1, number)


def pairwise_losses(
    masks: Tensor, index: Tensor, weight: Tensor, targets: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute binary cross entropy and dice loss, as in `PointLosses`, of every mask with every target.

    Args:
        masks: Mask logits, `(N, h, w)`.
        index: Of the `neighbors` of the points, which all masks share, `(P, 4)`.
        weight: Their weights, `(P, 4)`.
        targets: Share of each point that belongs to each target, `(C, P)`.
        known: Share of each point that is not ignored, `(P,)`.

    Returns:
        Two tensors `(C, N)`.
    """
    rows = as_rows(masks)
    linear, overlap = rows.new_zeros(2, len(targets), len(masks))
    of_negative, total = rows.new_zeros(2, len(masks))
    size = at_once(POINTS, len(index), masks.device)
    for around, share, target, part in zip(
        index.split(size), weight.split(size), targets.split(size, dim=1), known.split(size), strict=True
    ):
        logits = sample_shared(rows, around, share)  # (p, N)
        probabilities = logits.sigmoid()
        linear.addmm_(target, logits)
        overlap.addmm_(target, probabilities)
        total.addmv_(probabilities.t(), part)
        of_negative.addmv_(softplus_(logits, probabilities).t(), part)
    # softplus(x) is the loss of a negative, softplus(x) - x that of a positive
    cross_entropy = (of_negative - linear) / known.sum().clamp(min=1)
    return cross_entropy, 1 - (2 * overlap + 1) / (total + targets.sum(dim=1, keepdim=True) + 1)


def softplus_(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return log(1 + exp(logits)), given sigmoid(logits); it is written over the logits.

    It is max(x, 0) - log(sigmoid(|x|)), of operations that are fast on a CPU; PyTorch's own takes twice the time.
    """
    certain = 1 - probabilities
    torch.maximum(probabilities, certain, out=certain)
    return logits.relu_().sub_(certain.log_())


class PointLosses(torch.autograd.Function):
    """Losses of N masks, each at points of its own, whose gradient is computed with them.

    Only the gradient of the mask logits is kept for the backward pass: masks have fewer pixels than points.

    Args:
        masks: Mask logits, `(N, h, w)`.
        points: `(N, P, 2)`.
        targets: Share of each point that belongs to the mask's target, `(N, P)`.
        known: Share of each point that is not ignored, `(N, P)`, nowhere less than the targets.
        mask_weight: Weight of the binary cross entropy, a mean over the known points.
        dice_weight: Weight of the dice loss.

    Returns:
        Three scalars, sums over the masks: both losses weighted, which alone has a gradient, and each of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        masks: Tensor,
        points: Tensor,
        targets: Tensor,
        known: Tensor,
        mask_weight: float,
        dice_weight: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the losses, and the gradient if there will be a backward pass."""
        logits = sample_each(masks, points)
        p = logits.sigmoid()
        num_known = known.sum(dim=1).clamp(min=1)
        # a point is `targets` of a positive and `known - targets` of a negative
        linear = vecdot(targets, logits)
        cross_entropy = ((vecdot(known, softplus_(logits, p)) - linear) / num_known).sum()
        above = 2 * vecdot(p, targets) + 1
        below = vecdot(p, known) + targets.sum(dim=1) + 1
        dice = (1 - above / below).sum()
        if ctx.needs_input_grad[0]:
            of_known, of_targets = (dice_weight * value[:, None] for value in (above / below.square(), 2 / below))
            of_error = (mask_weight / num_known)[:, None]
            slope = torch.addcmul(p, p, p, value=-1, out=logits)
            # of_error (p known - targets) + slope (of_known known - of_targets targets)
            gradient = p.mul_(of_error).addcmul_(slope, of_known).mul_(known)
            gradient.sub_(slope.mul_(of_targets).add_(of_error).mul_(targets))
            ctx.save_for_backward(spread_each(gradient, points, masks))
        ctx.mark_non_differentiable(cross_entropy, dice)
        return mask_weight * cross_entropy + dice_weight * dice, cross_entropy, dice

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the mask logits from that of the weighted sum."""
        if torch.is_grad_enabled():
            raise UserError("backward: create_graph asks for second derivatives, which losses at points do not have")
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None, None, None, None
