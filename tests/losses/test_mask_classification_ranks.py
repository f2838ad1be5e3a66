"""The criterion in a distributed run; in a file of its own, so that the new processes import little."""

from pathlib import Path

import torch

from eomt.losses import MaskClassificationLoss
from tests.ranks import on_two_ranks


def losses_of(rank: int) -> dict[str, torch.Tensor]:
    """Return the losses of one image, with two targets on rank 0 and five on rank 1."""
    torch.manual_seed(rank)
    predictions = [(torch.randn(1, 6, 8, 8), torch.randn(1, 6, 6))]
    mask = torch.randint(0, [2, 5][rank], (1, 16, 16))
    return MaskClassificationLoss(5, num_points=64)(predictions, mask)


def test_normalizer_is_the_mean_number_of_targets_over_ranks(tmp_path: Path) -> None:
    found = on_two_ranks(losses_of, tmp_path)
    for rank, num_targets in enumerate([2, 5]):
        alone, together = losses_of(rank), found[rank]
        for name in ["mask_loss", "dice_loss"]:
            torch.testing.assert_close(together[name] * 3.5, alone[name] * num_targets)
        torch.testing.assert_close(together["class_loss"], alone["class_loss"])
