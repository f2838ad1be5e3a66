"""Signals that end a command."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def hang_up_as_sigterm() -> Iterator[list[int]]:
    """Let the end of a terminal stop a run as SIGTERM does, after which it can be resumed; yield the hang-ups so far.

    Whoever ignores them, as `nohup` does, goes on.
    """
    hung_up: list[int] = []

    def end(number: int, frame: object) -> None:
        hung_up.append(number)
        os.kill(os.getpid(), signal.SIGTERM)

    # Windows has no such signal
    number = getattr(signal, "SIGHUP", None)
    is_main = threading.current_thread() is threading.main_thread()
    if number is None or not is_main or signal.getsignal(number) is not signal.SIG_DFL:
        yield hung_up
        return
    signal.signal(number, end)
    try:
        yield hung_up
    finally:
        signal.signal(number, signal.SIG_DFL)
