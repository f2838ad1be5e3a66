"""Work on two ranks, for tests."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing

from tests.cli_runs import Workspace

TWO_RANKS = ("--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp_fork")


def run_on_ranks(workspace: Workspace, command: str, *args: str, ranks: int = 2) -> None:
    """Run a command on one or two ranks; these are forked, so that they need not import everything once more."""
    with one_thread():
        workspace.run(command, *args, *(TWO_RANKS if ranks == 2 else ()))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: those of OpenMP do not outlive a fork, and a process that waits for them hangs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def on_two_ranks(work: Callable[[int], Any], folder: Path, is_fresh: bool = False) -> list[Any]:
    """Return what `work(rank)` returns on each of two ranks, which meet in `folder`.

    Fresh ones import everything once more: backward passes of a fork fail where an earlier test ran one in threads.
    """
    with one_thread():
        method = "spawn" if is_fresh else "fork"
        torch.multiprocessing.start_processes(_run, args=(work, folder), nprocs=2, start_method=method)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _run(rank: int, work: Callable[[int], Any], folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
