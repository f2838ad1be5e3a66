"""Work on two ranks, for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

# of the command line; the processes are forked, so that they need not import everything once more
TWO_RANKS = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp_fork")


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what `work(rank)` returns on each of two ranks, which meet in `folder`."""
    torch.multiprocessing.start_processes(_run, args=(work, folder), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _run(rank: int, work: Callable[[int], Any], folder: Path) -> None:
    # threads of OpenMP do not outlive a fork
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
