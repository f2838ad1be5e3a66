"""The criterion against transformers' EomtLoss, brute force, and properties of its own."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import EomtConfig
from transformers.models.eomt.modeling_eomt import EomtLoss

from eomt.errors import UserError
from eomt.losses import MaskClassificationLoss, mask_classification
from eomt.losses.mask_classification import Assignment
from eomt.losses.point_targets import MapTargets, PointTargets
from eomt.utils.labels import IGNORE_INDEX

NUM_CLASSES, NUM_POINTS = 6, 64
Predictions = list[tuple[Tensor, Tensor]]


class LossAtFixedPoints(MaskClassificationLoss):
    """Draws the same points in every call, whatever else draws random numbers; an image's do not depend on others."""

    def sample_points(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        images = [torch.rand(*shape[1:], 2, generator=torch.Generator().manual_seed(i)) for i in range(shape[0])]
        return torch.stack(images).to(device)


def fixed_loss(**kwargs: float) -> LossAtFixedPoints:
    return LossAtFixedPoints(NUM_CLASSES, num_points=NUM_POINTS, **kwargs)


def make_predictions(
    num_layers: int = 1, num_images: int = 2, num_queries: int = 8, size: tuple[int, int] = (12, 10), seed: int = 0
) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(num_images, num_queries, *size, generator=generator).mul(3).requires_grad_(),
            torch.randn(num_images, num_queries, NUM_CLASSES + 1, generator=generator).requires_grad_(),
        )
        for _ in range(num_layers)
    ]


def make_mask() -> Tensor:
    """Return two images `(2, 24, 20)` with classes 0, 1, 4 and 0, 2, 3, 5 in blobs."""
    mask = torch.zeros(2, 24, 20, dtype=torch.int64)
    mask[0, 3:15, 4:12], mask[0, 10:, 8:] = 1, 4
    mask[1, :9, :9], mask[1, 5:20, 7:15], mask[1, 18:, 2:18] = 2, 3, 5
    return mask


def classes_as_objects(mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the masks `(T, H, W)` and the classes `(T,)` of what is present in each image and not ignored."""
    present = [image.unique() for image in mask]
    labels = [found[found != IGNORE_INDEX] for found in present]
    return [image == found[:, None, None] for image, found in zip(mask, labels, strict=True)], labels


def gradients(predictions: Predictions) -> list[Tensor]:
    collected = [tensor.grad for layer in predictions for tensor in layer]
    assert all(gradient is not None for gradient in collected)
    return [gradient.clone() for gradient in collected if gradient is not None]


# ---------------------------------------------------------------------------------------- against transformers


def points_for_transformers(loss: LossAtFixedPoints, class_labels: list[Tensor], num_pairs: list[int]) -> list[Tensor]:
    """Return what torch.rand must return, in the order of transformers' calls for one layer."""
    device, num_images = torch.device("cpu"), len(class_labels)
    matching = loss.sample_points((num_images, NUM_POINTS), device)
    num_rest = NUM_POINTS - loss.num_uncertain_points
    drawn = loss.sample_points((num_images, loss.num_candidates + num_rest), device)
    per_pair = torch.cat([drawn[i].expand(n, -1, -1) for i, n in enumerate(num_pairs)])
    return [*matching.split(1), per_pair[:, : loss.num_candidates], per_pair[:, loss.num_candidates :]]


def transformers_losses(
    loss: LossAtFixedPoints,
    predictions: Predictions,
    masks: list[Tensor],
    class_labels: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Tensor]:
    mask_labels = [image.float() for image in masks]
    num_pairs = [min(len(labels), predictions[0][0].shape[1]) for labels in class_labels]
    # drawn before torch.rand is replaced
    points = iter(points_for_transformers(loss, class_labels, num_pairs) * len(predictions))

    def same_points(*shape: int, device: torch.device) -> Tensor:
        drawn = next(points)
        assert drawn.shape == shape
        return drawn.contiguous()

    config = EomtConfig(num_labels=NUM_CLASSES, train_num_points=NUM_POINTS)
    oracle = EomtLoss(config, {})
    layers = [{"masks_queries_logits": found, "class_queries_logits": classes} for found, classes in predictions]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", same_points)
        parts = oracle(
            **layers[0], mask_labels=mask_labels, class_labels=class_labels, auxiliary_predictions=layers[1:]
        )
    sums = {
        ours: torch.stack([value for name, value in parts.items() if name.startswith(theirs)]).sum()
        for ours, theirs in [("mask_loss", "loss_mask"), ("dice_loss", "loss_dice"), ("class_loss", "loss_cross")]
    }
    total = (
        config.mask_weight * sums["mask_loss"]
        + config.dice_weight * sums["dice_loss"]
        + config.class_weight * sums["class_loss"]
    )
    return {"loss": total, **sums}


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("num_queries", [8, 3])  # 3: fewer than the classes of the second image
def test_losses_and_gradients_equal_transformers(
    num_layers: int, num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, mask = fixed_loss(), make_mask()
    ours, theirs = (make_predictions(num_layers, num_queries=num_queries) for _ in range(2))

    result = loss(ours, mask)
    expected = transformers_losses(loss, theirs, *classes_as_objects(mask), monkeypatch)

    assert result.keys() == expected.keys()
    for name, value in result.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
    result["loss"].backward()
    expected["loss"].backward()
    for ours_gradient, theirs_gradient in zip(gradients(ours), gradients(theirs), strict=True):
        assert theirs_gradient.abs().max() > 1e-3
        torch.testing.assert_close(ours_gradient, theirs_gradient, atol=1e-6, rtol=1e-4)


# ---------------------------------------------------------------------------------------- against its definition


def values_at(maps: Tensor, points: Tensor) -> Tensor:
    """Return dense maps `(N, H, W)` at points `(P, 2)`, `(N, P)`."""
    return F.grid_sample(maps[None], 2 * points[None, None] - 1, align_corners=False)[0, :, 0]


def plain_pair_losses(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross entropy and dice loss of one mask at P points."""
    p = logits.sigmoid()
    error = -(target * logits.sigmoid().log() + (known - target) * (-logits).sigmoid().log())
    dice = 1 - (2 * (p * target).sum() + 1) / ((p * known).sum() + target.sum() + 1)
    return error.sum() / known.sum().clamp(min=1), dice


def plain_criterion(
    loss: LossAtFixedPoints, predictions: Predictions, masks: list[Tensor], labels: list[Tensor], ignored: Tensor
) -> Tensor:
    """Return the loss in float64, pair by pair, from dense masks `(T, H, W)` and what is ignored `(B, H, W)`."""
    num_rest = NUM_POINTS - loss.num_uncertain_points
    matching, drawn = (
        loss.sample_points((len(masks), count), torch.device("cpu")).double()
        for count in (NUM_POINTS, loss.num_candidates + num_rest)
    )
    total, num_targets = torch.zeros((), dtype=torch.float64), 0
    class_targets = torch.full((len(predictions), *predictions[0][1].shape[:2]), NUM_CLASSES)
    for image, of_image in enumerate(labels):
        classes = of_image.tolist()
        num_targets += len(classes)
        dense = torch.cat([masks[image], ignored[image : image + 1]]).double()
        dense = torch.cat([dense, torch.ones_like(dense[:1])])
        for layer, (layer_masks, class_logits) in enumerate(predictions):
            at_points = values_at(dense, matching[image])
            known, logits = 1 - at_points[-2] / at_points[-1], values_at(layer_masks[image], matching[image])
            costs = [
                [
                    5 * sum(plain_pair_losses(mine, target, known)) - 2 * scores[label]
                    for target, label in zip(at_points, classes, strict=False)
                ]
                for mine, scores in zip(logits.detach(), class_logits[image].detach().softmax(-1), strict=True)
            ]
            at_points, logits = values_at(dense, drawn[image]), values_at(layer_masks[image], drawn[image])
            known = 1 - at_points[-2] / at_points[-1]
            for query, target in zip(*linear_sum_assignment(torch.tensor(costs).numpy()), strict=True):
                certainty = logits[query].abs().where(known > 0, torch.inf)[: loss.num_candidates]
                chosen = certainty.argsort()[: loss.num_uncertain_points].tolist()
                chosen += range(loss.num_candidates, len(known))
                total = total + 5 * sum(
                    plain_pair_losses(logits[query, chosen], at_points[target, chosen], known[chosen])
                )
                class_targets[layer, image, query] = classes[target]
    weight = loss.class_weights.double()
    of_classes = [
        F.cross_entropy(class_logits.flatten(0, 1), targets.flatten(), weight)
        for (_, class_logits), targets in zip(predictions, class_targets, strict=True)
    ]
    return total / num_targets + 2 * torch.stack(of_classes).sum()


@pytest.mark.parametrize("masks_at_once", [2, 100])
def test_loss_and_gradients_equal_the_definition(masks_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_classification, "MASKS", masks_at_once)
    loss, mask = fixed_loss(), make_mask()
    mask[0, 5:9, 2:11], mask[1, :, 17:] = IGNORE_INDEX, IGNORE_INDEX
    ours = make_predictions(num_layers=2)
    plain = [(a.detach().double().requires_grad_(), b.detach().double().requires_grad_()) for a, b in ours]

    found, expected = (
        loss(ours, mask)["loss"],
        plain_criterion(loss, plain, *classes_as_objects(mask), mask == IGNORE_INDEX),
    )
    found.backward()
    expected.backward()

    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-6)
    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        assert theirs.abs().max() > 1e-3
        torch.testing.assert_close(mine.double(), theirs, atol=1e-7, rtol=1e-4)


# ---------------------------------------------------------------------------------------- matching


@pytest.mark.parametrize(("num_queries", "num_targets"), [(5, 3), (4, 4), (2, 4)])
def test_matching_is_the_cheapest_of_all(num_queries: int, num_targets: int) -> None:
    costs = torch.randn(2, num_queries, NUM_CLASSES, generator=torch.Generator().manual_seed(3))
    classes = [5, 0, 2, 3][:num_targets]

    (assignment,) = fixed_loss().match([costs], MapTargets(torch.tensor(classes)[None, None]))

    assert assignment.classes.tolist() == sorted(classes)
    for layer in range(2):
        query, target = assignment.query[layer], assignment.classes[assignment.target[layer]]
        assert len(query) == len(set(query.tolist())) == len(set(target.tolist())) == min(num_queries, num_targets)
        if num_queries >= num_targets:
            options = (
                zip(rows, classes, strict=True) for rows in itertools.permutations(range(num_queries), num_targets)
            )
        else:
            options = (zip(range(num_queries), c, strict=True) for c in itertools.permutations(classes, num_queries))
        cheapest = min(sum(float(costs[layer, q, c]) for q, c in option) for option in options)
        assert float(costs[layer, query, target].sum()) == pytest.approx(cheapest, abs=1e-5)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_costs_that_are_not_finite_are_avoided(value: float) -> None:
    costs = torch.randn(1, 4, NUM_CLASSES, generator=torch.Generator().manual_seed(3))
    costs[0, 1] = value

    (assignment,) = fixed_loss().match([costs], MapTargets(torch.arange(3)[None, None]))

    assert sorted(assignment.query[0].tolist()) == [0, 2, 3]


def test_predictions_that_are_not_finite_do_not_crash() -> None:
    predictions = make_predictions()
    with torch.no_grad():
        predictions[0][0].fill_(torch.nan)

    assert fixed_loss()(predictions, make_mask())["loss"].isnan()


def test_uncertain_and_known_points_are_chosen() -> None:
    loss = fixed_loss()
    logits = torch.randn(loss.num_candidates, 5, generator=torch.Generator().manual_seed(0))
    known = torch.ones(loss.num_candidates + NUM_POINTS - loss.num_uncertain_points)
    known[::2] = 0

    chosen = loss.choose_points(logits.clone(), known)

    assert chosen.shape == (5, NUM_POINTS)
    for column, points in zip(logits.t().numpy(), chosen, strict=True):
        order = [int(point) for point in np.argsort(np.abs(column)) if known[point] > 0]
        expected = order[: loss.num_uncertain_points] + list(range(loss.num_candidates, len(known)))
        assert sorted(points.tolist()) == sorted(expected)


# ---------------------------------------------------------------------------------------- ignored pixels


def test_logits_on_ignored_pixels_have_no_effect() -> None:
    mask = make_mask()
    mask[:, :, 10:] = IGNORE_INDEX  # half of 20 columns: columns 5 to 9 of the logits, of which 5 touches column 4
    predictions = make_predictions(num_layers=2)
    result = fixed_loss()(predictions, mask)
    result["loss"].backward()

    for gradient in gradients(predictions)[::2]:
        assert gradient[..., 6:].abs().max() == 0
        assert gradient[..., :5].abs().max() > 0
    with torch.no_grad():
        for mask_logits, _ in predictions:
            mask_logits[..., 6:] = torch.randn_like(mask_logits[..., 6:])
    changed = fixed_loss()(predictions, mask)
    assert all(torch.equal(changed[name], value) for name, value in result.items())


class LossInside(LossAtFixedPoints):
    """Leaves out the image's border, beyond which there is no class."""

    def sample_points(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        return 0.1 + 0.8 * super().sample_points(shape, device)


def test_ignored_neighbours_are_not_negatives() -> None:
    mask = torch.zeros(1, 16, 16, dtype=torch.int64)
    mask[:, ::2, 1::2] = IGNORE_INDEX
    mask[:, :, 10:] = IGNORE_INDEX
    mask_logits = torch.full((1, 1, 16, 16), 50.0)
    class_logits = torch.zeros(1, 1, NUM_CLASSES + 1)

    result = LossInside(NUM_CLASSES, num_points=NUM_POINTS)([(mask_logits, class_logits)], mask)

    assert float(result["mask_loss"]) == pytest.approx(0, abs=1e-5)
    assert float(result["dice_loss"]) == pytest.approx(0, abs=1e-5)


def test_image_that_is_ignored_altogether_adds_nothing() -> None:
    predictions = make_predictions(num_layers=2)
    mask = make_mask()
    mask[1] = IGNORE_INDEX

    both = fixed_loss()(predictions, mask)
    alone = fixed_loss()([(masks[:1], classes[:1]) for masks, classes in predictions], mask[:1])

    for name, value in both.items():
        torch.testing.assert_close(value, alone[name])


def test_batch_that_is_ignored_altogether_has_zero_loss_with_a_graph() -> None:
    predictions = make_predictions(num_layers=2)

    result = fixed_loss()(predictions, torch.full_like(make_mask(), IGNORE_INDEX))
    result["loss"].backward()

    assert all(value.detach() == 0 for value in result.values())
    assert all(gradient.abs().max() == 0 for gradient in gradients(predictions))


def test_labels_that_are_no_class_are_refused() -> None:
    mask = make_mask()
    mask[0, 0, 0] = NUM_CLASSES

    with pytest.raises(UserError, match=r"labels \[0, 1, 2, 3, 4, 5, 6\] found; with num_classes 6"):
        fixed_loss()(make_predictions(), mask)


# ---------------------------------------------------------------------------------------- precision, memory


class LossThatShowsItsCosts(LossAtFixedPoints):
    """Keeps the matching costs."""

    def match(self, costs: list[Tensor], targets: PointTargets) -> list[Assignment]:
        self.costs = torch.stack(costs)
        return super().match(costs, targets)


def test_bfloat16_is_computed_in_float32_under_autocast() -> None:
    predictions = [(masks.detach().bfloat16(), classes.detach().bfloat16()) for masks, classes in make_predictions(2)]
    upcast = [(masks.float(), classes.float()) for masks, classes in predictions]
    loss, expected_loss = (LossThatShowsItsCosts(NUM_CLASSES, num_points=NUM_POINTS) for _ in range(2))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(predictions, make_mask())
    expected = expected_loss(upcast, make_mask())

    for value, expected_value in [
        *zip(result.values(), expected.values(), strict=True),
        (loss.costs, expected_loss.costs),
    ]:
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        torch.testing.assert_close(value, expected_value, atol=0, rtol=0)


class LargestTensor(TorchDispatchMode):
    """Notes the largest number of elements of any tensor that an operation returns; views count as what they show.

    Args:
        views: Count views.
    """

    def __init__(self, views: bool = True) -> None:
        super().__init__()
        self.views, self.numel = views, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (self.views or leaf.untyped_storage().data_ptr() not in given):
                self.numel = max(self.numel, leaf.numel())
        return result


def test_no_tensor_is_larger_than_the_index_map() -> None:
    mask = make_mask().repeat_interleave(40, dim=1).repeat_interleave(40, dim=2)

    with LargestTensor() as largest:
        fixed_loss()(make_predictions(num_layers=2), mask)["loss"].backward()

    assert largest.numel == mask.numel()
