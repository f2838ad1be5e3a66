"""The mask classification criterion of Mask2Former and EoMT, on index maps."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from eomt.errors import UserError, listed
from eomt.losses.point_losses import MASKS, PointLosses, at_once, pairwise_losses
from eomt.losses.point_sampling import as_rows, labels_around, least, neighbors, sample_shared, shares_of, take_points
from eomt.utils.distributed import mean_over_ranks
from eomt.utils.labels import IGNORE_INDEX

# stands for a cost that is not finite; larger numbers would round the finite costs away inside the assignment
UNMATCHABLE_COST = 1e10


class Assignment(NamedTuple):
    """Which queries answer for which targets of one image; n = min(number of queries, number of targets)."""

    classes: Tensor  # (T,), the classes present, each a target
    query: Tensor  # (L, n), per supervised layer
    target: Tensor  # (L, n), indices into `classes`


class MaskClassificationLoss(nn.Module):
    """Hungarian matching of queries and classes, then losses on masks and classes.

    The targets of an image are the classes present in it, one binary mask each. They are matched to queries, layer by
    layer, at the least sum of mask (binary cross entropy), dice and class costs. Matched queries learn mask and class,
    all others learn "no object", class C. Masks are compared at random points, in the loss most of them where the
    prediction is least certain (PointRend, Kirillov et al., CVPR 2020). See Mask2Former (Cheng et al., CVPR 2022) and
    EoMT (Kerssies et al., CVPR 2025).

    A target exists only at the points: its value there is interpolated from the labels of the four pixels around, and
    no mask of an image's size is made per class. The points of an image are shared by its queries, targets and layers.

    Ignored pixels are no evidence for or against a class: each of the four pixels around a point counts with its
    bilinear weight, ignored ones with 0. An image that is ignored altogether contributes nothing.

    Everything is computed in float32, under autocast as well.
    """

    class_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        class_weight: float = 2.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
    ) -> None:
        """Set up the criterion.

        Args:
            num_classes: C, at most 255.
            mask_weight: Weight of the binary cross entropy, in the matching and in the loss.
            dice_weight: Weight of the dice loss, likewise.
            class_weight: Weight of the class loss, likewise.
            no_object_weight: Weight of the class "no object" in the cross entropy; the others have 1.
            num_points: Points per mask.
            oversample_ratio: Points drawn to choose uncertain ones from, as a multiple of `num_points`; at least 1.
            importance_ratio: Share of the points that is chosen by uncertainty, in [0, 1]; the rest is random.
        """
        super().__init__()
        if not 0 < num_classes <= IGNORE_INDEX:
            raise UserError(f"num_classes: {num_classes}; must be 1 to {IGNORE_INDEX}")
        self.num_classes = num_classes
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.class_weight = class_weight
        self.num_points = num_points
        self.num_candidates = int(oversample_ratio * num_points)
        self.num_uncertain_points = int(importance_ratio * num_points)
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, predictions: list[tuple[Tensor, Tensor]], mask: Tensor) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            predictions: Mask logits `(B, Q, h, w)` and class logits `(B, Q, C + 1)` of each of L supervised layers.
            mask: Index map, int64 `(B, H, W)`, 0 to C - 1, or 255 where ignored.

        Returns:
            `loss`: the weighted sum, to be minimized. `mask_loss`, `dice_loss`, `class_loss`: its parts, unweighted,
            summed over the layers, detached.

        Raises:
            UserError: The mask holds a label that is no class.
        """
        with torch.autocast(device_type=mask.device.type, enabled=False):
            mask_logits = [layer_masks for layer_masks, _ in predictions]
            class_logits = torch.stack([layer_classes.float() for _, layer_classes in predictions])  # (L, B, Q, C + 1)
            present = torch.zeros(len(mask), IGNORE_INDEX + 1, dtype=torch.bool, device=mask.device)
            present = present.scatter_(1, mask.flatten(1), True)[:, :IGNORE_INDEX]  # (B, 255), labels found in an image

            assignments = self.match(self.matching_costs(mask_logits, class_logits, mask), present)
            weighted, mask_loss, dice_loss = self.mask_losses(mask_logits, mask, assignments)
            count = present.sum().float()
            # in evaluation ranks may have different numbers of windows and must not wait for one another
            normalizer = (mean_over_ranks(count) if self.training else count).clamp(min=1)
            class_loss = self.class_loss(class_logits, assignments, present.any(dim=1))
            loss = weighted / normalizer + self.class_weight * class_loss
        return {
            "loss": loss,
            "mask_loss": mask_loss / normalizer,
            "dice_loss": dice_loss / normalizer,
            "class_loss": class_loss.detach(),
        }

    def sample_points(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Draw random points, (x, y) uniform in [0, 1] x [0, 1], `(*shape, 2)`."""
        return torch.rand(*shape, 2, device=device, dtype=torch.float32)

    @torch.no_grad()
    def matching_costs(self, mask_logits: list[Tensor], class_logits: Tensor, mask: Tensor) -> Tensor:
        """Compute what it costs a query to answer for a class, whether the class is present or not.

        Args:
            mask_logits: L times `(B, Q, h, w)`.
            class_logits: `(L, B, Q, C + 1)`.
            mask: `(B, H, W)`.

        Returns:
            `(B, L, Q, C)`
        """
        points = self.sample_points((len(mask), self.num_points), mask.device)
        labels, weight = labels_around(mask, points)
        index, logit_weight = neighbors(points, *mask_logits[0].shape[-2:])
        classes = torch.arange(self.num_classes, device=mask.device)
        costs = []
        for image in range(len(mask)):
            targets, known = shares_of(labels[image], weight[image], classes)
            for layer in mask_logits:
                masks = layer[image].float()
                mask_costs, dice_costs = pairwise_losses(masks, index[image], logit_weight[image], targets, known)
                costs.append(self.mask_weight * mask_costs + self.dice_weight * dice_costs)

        class_costs = -class_logits.softmax(dim=-1)[..., :-1].transpose(0, 1)  # (B, L, Q, C)
        pair_costs = torch.stack(costs).unflatten(0, class_costs.shape[:2]).transpose(-1, -2)
        return pair_costs + self.class_weight * class_costs

    def match(self, costs: Tensor, present: Tensor) -> list[Assignment]:
        """Assign queries to the classes present, at the least total cost per image and layer.

        Args:
            costs: `(B, L, Q, C)`.
            present: Labels found in each image, bool `(B, 255)`.

        Returns:
            One assignment per image.

        Raises:
            UserError: A label found is no class.
        """
        # the only wait for the device: everything the host must know comes in one piece
        on_host = torch.cat([costs.flatten(), present.flatten().to(costs)]).cpu().numpy()
        host_costs = on_host[: costs.numel()].reshape(costs.shape).astype(np.float64)
        host_costs = np.nan_to_num(
            host_costs, nan=UNMATCHABLE_COST, posinf=UNMATCHABLE_COST, neginf=UNMATCHABLE_COST, copy=False
        )
        host_present = on_host[costs.numel() :].reshape(present.shape) > 0
        if host_present[:, self.num_classes :].any():
            found = np.flatnonzero(host_present.any(axis=0)).tolist()
            raise UserError(
                f"mask: labels [{listed(found)}] found; with num_classes {self.num_classes} they must be 0 to "
                f"{self.num_classes - 1}, or {IGNORE_INDEX} (ignored)"
            )

        assignments = []
        for image_costs, image_present in zip(host_costs, host_present, strict=True):
            classes = np.flatnonzero(image_present)
            pairs = np.array([linear_sum_assignment(layer_costs[:, classes]) for layer_costs in image_costs])
            query, target = torch.from_numpy(pairs).to(costs.device, torch.int64).unbind(dim=1)
            assignments.append(Assignment(torch.from_numpy(classes).to(costs.device), query, target))
        return assignments

    def mask_losses(
        self, mask_logits: list[Tensor], mask: Tensor, assignments: list[Assignment]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute binary cross entropy and dice loss of the matched queries, summed over all pairs of all layers.

        Args:
            mask_logits: L times `(B, Q, h, w)`.
            mask: `(B, H, W)`.
            assignments: One per image.

        Returns:
            Three scalars, not yet normalized: the weighted sum of both, and each of them, detached.
        """
        num_queries = mask_logits[0].shape[1]
        rows = torch.cat([image * num_queries + a.query for image, a in enumerate(assignments)], dim=1)  # (L, n)
        matched = torch.stack(
            [layer.flatten(0, 1).index_select(0, row) for layer, row in zip(mask_logits, rows, strict=True)]
        ).float()  # (L, n, h, w)

        num_random_points = self.num_points - self.num_uncertain_points
        points = self.sample_points((len(mask), self.num_candidates + num_random_points), mask.device)
        labels, weight = labels_around(mask, points)
        index, logit_weight = neighbors(points[:, : self.num_candidates], *matched.shape[-2:])
        # a graph even where nothing is matched
        losses = [(matched[:, :0].sum(), *matched.new_zeros(2))]
        for image, logits in enumerate(matched.split([a.query.shape[1] for a in assignments], dim=1)):
            classes, _, target = assignments[image]
            if not len(classes):
                continue
            targets, known = shares_of(labels[image], weight[image], classes)
            size = at_once(MASKS, target.numel(), mask.device)
            for masks, place in zip(logits.flatten(0, 1).split(size), target.flatten().split(size), strict=True):
                candidates = sample_shared(as_rows(masks), index[image], logit_weight[image])
                chosen = self.choose_points(candidates, known)  # (N, P)
                losses.append(
                    PointLosses.apply(
                        masks,
                        take_points(points[image], chosen),
                        targets.flatten().take(chosen + place[:, None] * len(known)),
                        known.expand(len(masks), -1).gather(1, chosen),
                        self.mask_weight,
                        self.dice_weight,
                    )
                )
        weighted, mask_loss, dice_loss = (torch.stack(values).sum() for values in zip(*losses, strict=True))
        return weighted, mask_loss, dice_loss

    def choose_points(self, logits: Tensor, known: Tensor) -> Tensor:
        """Choose the points of one image at which each mask is compared: the least certain candidates, then the rest.

        Args:
            logits: Mask logits at the candidates, `(number of candidates, N)`.
            known: Share of each point that is not ignored, candidates first, `(K,)`.

        Returns:
            Indices of points, int64 `(N, P)`.
        """
        num_candidates, num_masks = logits.shape
        # no point is spent where nothing is known
        unknown = torch.where(known[:num_candidates] == 0, torch.inf, 0.0)
        certainty = logits.t().contiguous().abs_().add_(unknown)
        uncertain = least(certainty, self.num_uncertain_points)
        rest = torch.arange(num_candidates, len(known), device=known.device).expand(num_masks, -1)
        return torch.cat([uncertain, rest], dim=1)

    def class_loss(self, class_logits: Tensor, assignments: list[Assignment], supervised: Tensor) -> Tensor:
        """Compute the cross entropy of all queries, a weighted mean per layer, summed over the layers.

        Args:
            class_logits: `(L, B, Q, C + 1)`.
            assignments: One per image.
            supervised: Images that are not ignored altogether, bool `(B,)`.

        Returns:
            A scalar.
        """
        targets = torch.full(class_logits.shape[:-1], self.num_classes, device=class_logits.device)  # (L, B, Q)
        for image, assignment in enumerate(assignments):
            targets[:, image].scatter_(1, assignment.query, assignment.classes[assignment.target])
        losses = F.cross_entropy(class_logits.flatten(0, 2), targets.flatten(), reduction="none").view(targets.shape)
        weights = self.class_weights[targets] * supervised[:, None]
        smallest = torch.finfo(weights.dtype).tiny  # all images ignored: 0 instead of 0 / 0
        return ((weights * losses).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp(min=smallest)).sum()
