"""Processes of one training: which of them failed, and what the others say then."""

import importlib
import os
import re
import signal
import threading
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.trainer.states import TrainerStatus
from torch.multiprocessing.spawn import ProcessRaisedException

from eomt.errors import UserError

# in the messages of gloo and NCCL where another process is gone
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
# seconds that a process which waits for one that failed has to end by itself
PATIENCE = 5.0


class PeerError(UserError):
    """The end of another process, without which this one cannot go on.

    Attributes:
        status: Exit status of the command: that of the other process where it is known.
    """

    status = 1


def peer_error(error: BaseException, trainer: Trainer | None) -> UserError | None:
    """Return the error of a process that failed in another one's place; None if an error is this process's own.

    Args:
        error: What this process raised.
        trainer: Its trainer, if it got that far.
    """
    if isinstance(error, ProcessRaisedException):
        # of a forked process there is but the text of its traceback
        last = str(error).strip().splitlines()[-1]
        found = re.fullmatch(r"((?:\w+\.)+)(\w+): (.*)", last)
        if found and _is_user_error(found[1].rstrip("."), found[2]):
            mistake = PeerError(f"{found[3]} (rank {error.error_index})")
            mistake.status = 2
            return mistake
        return None
    # a lone process has pipes to lose, too: those of its data loader
    is_one_of_several = trainer is not None and trainer.world_size > 1
    if is_one_of_several and isinstance(error, RuntimeError) and any(words in str(error) for words in LOST):
        failed = _failed_child(trainer, time.monotonic() + PATIENCE)
        who = "another process" if failed is None else f"rank {failed[0]}"
        ended = PeerError(f"{who}: ended, and this process cannot go on without it; see its own message")
        ended.status = 1 if failed is None else failed[1]
        return ended
    return None


def watch_ranks(trainer: Trainer) -> None:
    """End this process soon after one that it has started fails, and on Ctrl-C, even where it waits in a library."""
    if trainer.num_nodes > 1 and threading.current_thread() is threading.main_thread():
        _wait_killably(trainer)
    if getattr(trainer.strategy.launcher, "procs", None) is not None:
        # Lightning would kill this process within five seconds, and the exit status would be that of a kill
        subprocess_script._launch_process_observer = lambda child_processes: None
        threading.Thread(target=_watch, args=(trainer,), daemon=True, name="watch-ranks").start()


def check_launch(trainer: Trainer) -> None:
    """Check that processes are started in a way that works here, and that all that were started are used.

    Raises:
        UserError: If they are not.
    """
    if getattr(trainer.strategy.launcher, "_start_method", None) == "spawn":
        raise UserError(
            "trainer.strategy: spawned processes would get the whole network through a pipe; give ddp, or in a "
            "notebook ddp_notebook"
        )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if "TORCHELASTIC_RUN_ID" in os.environ and started > 1 and trainer.world_size == 1:
        raise UserError(
            f"trainer.devices: torchrun started {started} processes, and each would train alone; give "
            "--trainer.strategy ddp and as many --trainer.devices as processes of a node"
        )


def _wait_killably(trainer: Trainer) -> None:
    """Let Ctrl-C and SIGTERM end this process while it waits for other machines.

    It waits in a library, where no handler of Python's is called.
    """
    connect = trainer.strategy.setup_environment

    def connect_killably() -> None:
        handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            connect()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    vars(trainer.strategy)["setup_environment"] = connect_killably


def _watch(trainer: Trainer) -> None:
    while (failed := _failed_child(trainer, 0.0)) is None:
        if trainer.state.finished:
            return
        time.sleep(0.2)
    # this process may be about to say so itself
    time.sleep(PATIENCE)
    if trainer.state.status != TrainerStatus.RUNNING:
        return
    print(f"error: rank {failed[0]}: ended, and this process waits for it in vain; see its own message", flush=True)
    os._exit(failed[1])


def _failed_child(trainer: Trainer | None, deadline: float) -> tuple[int, int] | None:
    """Return rank and exit status of a process that this one started and that failed; None if there is none yet."""
    while True:
        processes: list[Any] = [] if trainer is None else getattr(trainer.strategy.launcher, "procs", [])
        for index, process in enumerate(processes):
            poll = getattr(process, "poll", None)
            if poll is not None and (status := poll()):
                # a signal gives a negative one
                return index + 1, status if status > 0 else 128 - status
        if not processes or time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _is_user_error(module: str, name: str) -> bool:
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, UserError)
