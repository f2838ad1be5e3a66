"""Losses in a distributed run; in a file of its own, so that the new processes import little."""

from pathlib import Path

import torch
from torch import Tensor

from eomt.losses import MaskClassificationLoss
from eomt.losses.answers import AnswerLoss
from eomt.losses.outlier_exposure import outlier_loss
from tests.ranks import on_two_ranks


class FixedPoints(MaskClassificationLoss):
    """Draws the points of an image by its number, on whatever process that is."""

    first = 0

    def sample_points(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        images = [torch.rand(*shape[1:], 2, generator=torch.Generator().manual_seed(self.first + i)) for i in range(2)]
        return torch.stack(images)[: shape[0]].to(device)


def gradients_of(images: slice) -> dict[str, Tensor]:
    """Return losses, and gradients of their inputs, of some of two images, which differ in all that is counted."""
    generator = torch.Generator().manual_seed(0)
    masks, classes = torch.randn(2, 6, 8, 8, generator=generator), torch.randn(2, 6, 6, generator=generator)
    answers = torch.randn(6, 4, generator=generator)
    index_map = torch.stack([torch.randint(0, most, (16, 16), generator=generator) for most in (2, 5)])
    outlier = torch.stack([torch.arange(16).expand(16, 16) < width for width in (2, 9)])
    # samples 1 and 2 have no target
    target = torch.tensor([1, -1, -1, 0, 3, 2])
    criterion = FixedPoints(5, num_points=64)
    criterion.first = images.start
    parts = [part[images].clone().requires_grad_() for part in (masks, classes)]
    rows = slice(3 * images.start, 3 * images.stop)
    logits = answers[rows].clone().requires_grad_()
    found = {
        "masks": criterion([(parts[0], parts[1])], index_map[images])["loss"],
        "answers": AnswerLoss()(logits, target[rows]),
        "outliers": outlier_loss(parts[0], parts[1], outlier[images], is_training=True),
    }
    wanted = {"masks": parts, "answers": [logits], "outliers": parts}
    gradients = {
        f"{name} {place}": gradient
        for name, value in found.items()
        for place, gradient in enumerate(torch.autograd.grad(value, wanted[name], retain_graph=True))
    }
    return {name: value.detach() for name, value in found.items()} | gradients


def of_rank(rank: int) -> dict[str, Tensor]:
    return gradients_of(slice(rank, rank + 1))


def test_two_processes_are_one_with_both_batches(tmp_path: Path) -> None:
    first, second = on_two_ranks(of_rank, tmp_path, is_fresh=True)
    for name, whole in gradients_of(slice(0, 2)).items():
        # data-parallel training takes the mean of gradients
        parts = (first[name] + second[name]) / 2 if whole.ndim == 0 else torch.cat([first[name], second[name]]) / 2
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
