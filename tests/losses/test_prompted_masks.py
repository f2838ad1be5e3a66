"""The criterion of prompted masks against loops over objects, masks and pixels."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eomt.losses import PromptedMaskLoss
from tests.ranks import on_two_ranks

PARTS = {"focal_loss": 20.0, "dice_loss": 1.0, "iou_loss": 1.0, "object_loss": 1.0}
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(
    seed: int = 0, num_masks: int = 3, size: tuple[int, int] = (4, 5), target_size: tuple[int, int] = (8, 10)
) -> Inputs:
    """Return two images of three objects in float64; one object is empty, the last of image 1 is padding."""
    generator = torch.Generator().manual_seed(seed)
    mask_logits = torch.randn(2, 3, num_masks, *size, generator=generator, dtype=torch.float64) * 2
    iou_scores = torch.rand(2, 3, num_masks, generator=generator, dtype=torch.float64)
    object_logits = torch.randn(2, 3, 1, generator=generator, dtype=torch.float64)
    targets = torch.rand(2, 3, *target_size, generator=generator) < 0.4
    targets[0, 1] = False
    targets[1, 2] = False
    valid = torch.tensor([[True, True, True], [True, True, False]])
    return mask_logits.requires_grad_(), iou_scores.requires_grad_(), object_logits.requires_grad_(), targets, valid


def mask_figures(logits: list[float], target: list[bool]) -> tuple[float, float, float]:
    """Return focal loss, dice loss and IoU of one mask, pixel by pixel as the papers write them."""
    focal, overlap, total, intersection, union = 0.0, 0.0, 0.0, 0, 0
    for logit, positive in zip(logits, target, strict=True):
        probability = 1 / (1 + math.exp(-logit))
        truth, alpha = (probability, 0.25) if positive else (1 - probability, 0.75)
        focal += -alpha * (1 - truth) ** 2 * math.log(truth)
        overlap += probability * positive
        total += probability + positive
        intersection += logit > 0 and positive
        union += logit > 0 or positive
    return focal / len(logits), 1 - (2 * overlap + 1) / (total + 1), intersection / max(1, union)


def brute_force(inputs: Inputs) -> tuple[dict[str, float], dict[tuple[int, int], int]]:
    """Return the parts of the loss, and the best mask of each object that has one."""
    mask_logits, iou_scores, object_logits, targets, valid = inputs
    sums, best = dict.fromkeys(PARTS, 0.0), {}
    for image in range(len(targets)):
        large = torch.nn.functional.interpolate(mask_logits[image].detach(), targets.shape[-2:], mode="bilinear")
        for place in range(targets.shape[1]):
            if not valid[image, place]:
                continue
            target = targets[image, place].flatten().tolist()
            logit = object_logits[image, place].item()
            sums["object_loss"] += math.log1p(math.exp(-logit if any(target) else logit))
            if not any(target):
                continue
            figures = [mask_figures(mask.flatten().tolist(), target) for mask in large[place]]
            best[image, place] = min(range(len(figures)), key=lambda m: 20 * figures[m][0] + figures[m][1])
            sums["focal_loss"] += figures[best[image, place]][0]
            sums["dice_loss"] += figures[best[image, place]][1]
            errors = [abs(iou_scores[image, place, m].item() - figures[m][2]) for m in range(len(figures))]
            sums["iou_loss"] += sum(errors) / len(errors)
    return {name: value / int(valid.sum()) for name, value in sums.items()}, best


@pytest.mark.parametrize("num_masks", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_brute_force(seed: int, num_masks: int) -> None:
    inputs = make_inputs(seed, num_masks)

    losses = PromptedMaskLoss()(*inputs)

    expected, _ = brute_force(inputs)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9)
    assert losses["loss"].item() == pytest.approx(sum(PARTS[name] * expected[name] for name in PARTS), rel=1e-9)


def test_gradients_are_those_of_finite_differences() -> None:
    *predictions, targets, valid = make_inputs(size=(2, 3), target_size=(4, 6))
    criterion = PromptedMaskLoss()

    assert torch.autograd.gradcheck(lambda *values: criterion(*values, targets, valid)["loss"], predictions)


def test_only_the_best_mask_learns_and_every_predicted_iou() -> None:
    inputs = make_inputs()
    _, best = brute_force(inputs)

    PromptedMaskLoss()(*inputs)["loss"].backward()

    masks, scores, objects = (part.grad for part in inputs[:3])
    assert masks is not None
    assert scores is not None
    assert objects is not None
    for image in range(2):
        for place in range(3):
            learns = [best.get((image, place)) == m for m in range(3)]
            assert (masks[image, place].abs().amax(dim=(1, 2)) > 0).tolist() == learns
            assert (scores[image, place] != 0).tolist() == [(image, place) in best] * 3
    assert torch.equal(objects[..., 0] != 0, inputs[4])


def test_weights_switch_their_parts() -> None:
    inputs = make_inputs()
    names = ("focal_weight", "dice_weight", "iou_weight", "object_weight")
    for name, part in zip(names, PARTS, strict=True):
        losses = PromptedMaskLoss(**{other: float(other == name) for other in names})(*inputs)
        torch.testing.assert_close(losses["loss"].detach(), losses[part])


def test_padding_changes_nothing_whatever_it_holds() -> None:
    mask_logits, iou_scores, object_logits, targets, valid = make_inputs()
    *other, other_targets, _ = make_inputs(seed=1)
    padded = [torch.cat(pair, dim=1) for pair in zip((mask_logits, iou_scores, object_logits), other, strict=True)]

    alone = PromptedMaskLoss()(mask_logits, iou_scores, object_logits, targets, valid)
    together = PromptedMaskLoss()(
        *padded, torch.cat([targets, other_targets], dim=1), torch.cat([valid, torch.zeros_like(valid)], dim=1)
    )

    for name, value in alone.items():
        torch.testing.assert_close(together[name], value)


def test_batch_without_objects_costs_nothing_and_has_a_graph() -> None:
    *predictions, targets, valid = make_inputs()

    losses = PromptedMaskLoss()(*predictions, torch.zeros_like(targets), torch.zeros_like(valid))
    losses["loss"].backward()

    assert all(value == 0 for value in losses.values())
    assert all(part.grad is not None and not part.grad.any() for part in predictions)


def test_low_precision_is_computed_in_float32_under_autocast_as_well() -> None:
    *predictions, targets, valid = make_inputs()
    low = [part.detach().bfloat16() for part in predictions]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = PromptedMaskLoss()(*low, targets, valid)

    expected = PromptedMaskLoss()(*(part.double() for part in low), targets, valid)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_large_logits_stay_finite() -> None:
    *predictions, targets, valid = make_inputs()
    large = [(part.detach().float() * 1e4).requires_grad_() for part in predictions]

    loss = PromptedMaskLoss()(*large, targets, valid)["loss"]
    loss.backward()

    assert loss.isfinite()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in large)


def losses_of(rank: int) -> dict[str, Tensor]:
    """Return the losses of three objects on rank 0 and two on rank 1."""
    inputs = [part[rank : rank + 1] for part in make_inputs()]
    return {name: value.detach() for name, value in PromptedMaskLoss()(*inputs).items()}


def test_mean_over_ranks_is_the_loss_of_one_process(tmp_path: Path) -> None:
    ranks = on_two_ranks(losses_of, tmp_path)
    for name, value in PromptedMaskLoss()(*make_inputs()).items():
        torch.testing.assert_close((ranks[0][name] + ranks[1][name]) / 2, value.detach())


def test_a_share_of_the_focal_loss_teaches_masks_of_absent_classes_to_be_empty() -> None:
    """15.2: nothing said that the mask of a class does not belong on an object of another class."""
    inputs = make_inputs()
    mask_logits, _, _, targets, valid = inputs
    criterion = PromptedMaskLoss()
    without, with_share = (criterion(*inputs, absent_masks=share) for share in (0.0, 0.2))
    # the empty object of image 0 is counted, the padding of image 1 is not
    large = torch.nn.functional.interpolate(mask_logits[0, 1:2], targets.shape[-2:], mode="bilinear")[0]
    figures = [mask_figures(mask.flatten().tolist(), [False] * mask.numel()) for mask in large.detach()]
    best = min(figures, key=lambda found: 20 * found[0] + found[1])
    expected = 0.2 * best[0] / int(valid.sum())
    assert float(with_share["focal_loss"] - without["focal_loss"]) == pytest.approx(expected, rel=1e-6)
    gradient = torch.autograd.grad(with_share["loss"], mask_logits)[0]
    assert gradient[0, 1].any()
    assert not gradient[1, 2].any()
