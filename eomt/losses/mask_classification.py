"""The mask classification criterion of Mask2Former and EoMT, on index maps and on masks of objects."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.losses.point_losses import MASKS, PointLosses, at_once, pairwise_losses
from eomt.losses.point_sampling import as_rows, least, neighbors, sample_shared, take_points
from eomt.losses.point_targets import MapTargets, PointTargets
from eomt.utils.distributed import batch_count
from eomt.utils.labels import IGNORE_INDEX

# stands for a cost that is not finite; larger numbers would round the finite costs away inside the assignment
UNMATCHABLE_COST = 1e10


class Assignment(NamedTuple):
    """Which queries answer for which targets of one image; n = min(number of queries, number of targets)."""

    chosen: Tensor  # (T,), the candidates that are targets
    classes: Tensor  # (T,), their classes
    query: Tensor  # (L, n), per supervised layer
    target: Tensor  # (L, n), indices into `classes`


class MaskClassificationLoss(nn.Module):
    """Hungarian matching of queries and targets, then losses on masks and classes.

    The targets of an image are the classes present in it, one binary mask each, or its objects. They are matched to
    queries, layer by layer, at the least sum of mask (binary cross entropy), dice and class costs. Matched queries
    learn mask and class, all others learn "no object", class C. Masks are compared at random points, in the loss most
    of them where the prediction is least certain (PointRend, Kirillov et al., CVPR 2020). See Mask2Former (Cheng et
    al., CVPR 2022) and EoMT (Kerssies et al., CVPR 2025).

    A target exists only at the points: its value there is interpolated from the four pixels around, and no mask of an
    image's size is made per target. The points of an image are shared by its queries, targets and layers.

    Ignored pixels of index maps are no evidence for or against a class: each of the four pixels around a point counts
    with its bilinear weight, ignored ones with 0. An image that is ignored altogether contributes nothing.

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

    def forward(self, predictions: list[tuple[Tensor, Tensor]], truth: Tensor | PointTargets) -> dict[str, Tensor]:
        """Compute the losses of a batch.

        Args:
            predictions: Mask logits `(B, Q, h, w)` and class logits `(B, Q, C + 1)` of each of L supervised layers.
            truth: Index map, int64 `(B, H, W)`, 0 to C - 1, or 255 where ignored; or objects, as `ObjectTargets`.

        Returns:
            `loss`: the weighted sum, to be minimized. `mask_loss`, `dice_loss`, `class_loss`: its parts, unweighted,
            summed over the layers, detached.

        Raises:
            UserError: A label is no class.
        """
        targets = MapTargets(truth) if isinstance(truth, Tensor) else truth
        with torch.autocast(device_type=targets.device.type, enabled=False):
            mask_logits = [layer_masks for layer_masks, _ in predictions]
            class_logits = torch.stack([layer_classes.float() for _, layer_classes in predictions])  # (L, B, Q, C + 1)
            assignments = self.match(self.matching_costs(mask_logits, class_logits, targets), targets)
            weighted, mask_loss, dice_loss = self.mask_losses(mask_logits, targets, assignments)
            count = class_logits.new_tensor(float(sum(len(a.classes) for a in assignments)))
            normalizer = batch_count(count, self.training)
            class_loss = self.class_loss(class_logits, assignments, targets.supervised())
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
    def matching_costs(self, mask_logits: list[Tensor], class_logits: Tensor, targets: PointTargets) -> list[Tensor]:
        """Compute what it costs a query to answer for a candidate, whether that is a target or not.

        Args:
            mask_logits: L times `(B, Q, h, w)`.
            class_logits: `(L, B, Q, C + 1)`.
            targets: Of B images.

        Returns:
            B of `(L, Q, T)`, for T candidates.
        """
        points = self.sample_points((len(targets), self.num_points), targets.device)
        around = targets.around(points)
        index, logit_weight = neighbors(points, *mask_logits[0].shape[-2:])
        class_costs = -class_logits.softmax(dim=-1)[..., :-1].transpose(0, 1)  # (B, L, Q, C)
        costs = []
        for image, of_class in enumerate(class_costs):
            candidates = targets.candidates(image, self.num_classes)
            shares, known = targets.shares(image, around, torch.arange(len(candidates), device=targets.device))
            pairs = []
            for layer in mask_logits:
                masks = layer[image].float()
                mask_costs, dice_costs = pairwise_losses(masks, index[image], logit_weight[image], shares, known)
                pairs.append(self.mask_weight * mask_costs + self.dice_weight * dice_costs)
            costs.append(torch.stack(pairs).transpose(-1, -2) + self.class_weight * of_class[..., candidates])
        return costs

    def match(self, costs: list[Tensor], targets: PointTargets) -> list[Assignment]:
        """Assign queries to targets, at the least total cost per image and layer.

        Args:
            costs: B of `(L, Q, T)`, for T candidates.
            targets: Of B images.

        Returns:
            One assignment per image.

        Raises:
            UserError: A label is no class.
        """
        found = [targets.found(image) for image in range(len(targets))]
        # the only wait for the device: everything the host must know comes in one piece
        pieces = [*costs, *(numbers.to(costs[0]) for numbers in found)]
        on_host = torch.cat([piece.flatten() for piece in pieces]).cpu().split([piece.numel() for piece in pieces])
        assignments = []
        of_images = [numbers.numpy() for numbers in on_host[len(costs) :]]
        for image, chosen in enumerate(targets.chosen(of_images, self.num_classes)):
            image_costs = on_host[image].view(costs[image].shape).numpy().astype(np.float64)
            image_costs = np.nan_to_num(
                image_costs, nan=UNMATCHABLE_COST, posinf=UNMATCHABLE_COST, neginf=UNMATCHABLE_COST, copy=False
            )
            pairs = np.array([linear_sum_assignment(layer_costs[:, chosen]) for layer_costs in image_costs])
            query, target = torch.from_numpy(pairs).to(targets.device, torch.int64).unbind(dim=1)
            places = torch.from_numpy(chosen).to(targets.device)
            classes = targets.candidates(image, self.num_classes)[places]
            assignments.append(Assignment(places, classes, query, target))
        return assignments

    def mask_losses(
        self, mask_logits: list[Tensor], targets: PointTargets, assignments: list[Assignment]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute binary cross entropy and dice loss of the matched queries, summed over all pairs of all layers.

        Args:
            mask_logits: L times `(B, Q, h, w)`.
            targets: Of B images.
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
        points = self.sample_points((len(targets), self.num_candidates + num_random_points), targets.device)
        around = targets.around(points)
        index, logit_weight = neighbors(points[:, : self.num_candidates], *matched.shape[-2:])
        # a graph even where nothing is matched
        losses = [(matched[:, :0].sum(), *matched.new_zeros(2))]
        for image, logits in enumerate(matched.split([a.query.shape[1] for a in assignments], dim=1)):
            assignment = assignments[image]
            if not len(assignment.classes):
                continue
            shares, known = targets.shares(image, around, assignment.chosen)
            target = assignment.target.flatten()
            size = at_once(MASKS, len(target), targets.device)
            for masks, place in zip(logits.flatten(0, 1).split(size), target.split(size), strict=True):
                candidates = sample_shared(as_rows(masks), index[image], logit_weight[image])
                chosen = self.choose_points(candidates, known)  # (N, P)
                losses.append(
                    PointLosses.apply(
                        masks,
                        take_points(points[image], chosen),
                        shares.flatten().take(chosen + place[:, None] * len(known)),
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
        return (
            (weights * losses).sum(dim=(1, 2)) / batch_count(weights.sum(dim=(1, 2)), self.training, smallest)
        ).sum()
