"""The criterion in a distributed run; in a file of its own, so that the new processes import little."""

from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from eomt.losses import MaskClassificationLoss


def losses_of(rank: int) -> dict[str, torch.Tensor]:
    """Return the losses of one image, with two targets on rank 0 and five on rank 1."""
    torch.manual_seed(rank)
    predictions = [(torch.randn(1, 6, 8, 8), torch.randn(1, 6, 6))]
    mask = torch.randint(0, [2, 5][rank], (1, 16, 16))
    return MaskClassificationLoss(5, num_points=64)(predictions, mask)


def save_losses(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(losses_of(rank), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_normalizer_is_the_mean_number_of_targets_over_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where the new processes find this module
    torch.multiprocessing.spawn(save_losses, args=(str(tmp_path),), nprocs=2)

    for rank, num_targets in enumerate([2, 5]):
        alone, together = losses_of(rank), torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ["mask_loss", "dice_loss"]:
            torch.testing.assert_close(together[name] * 3.5, alone[name] * num_targets)
        torch.testing.assert_close(together["class_loss"], alone["class_loss"])
