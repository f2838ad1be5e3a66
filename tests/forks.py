"""Programs that tests stop or starve: forked, so that they need not import everything once more."""

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.ranks import one_thread


class Program:
    """Work in a process of its own, as `python main.py` would do it.

    Args:
        work: What to do; SystemExit gives the exit status.
        output: File for what is printed.
    """

    def __init__(self, work: Callable[[], object], output: Path) -> None:
        self.output = output
        self.status: int | None = None
        with one_thread():
            self.pid = os.fork()
            if self.pid == 0:
                _work(work, output)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def has_ended(self) -> bool:
        """Whether it has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def finish(self, seconds: float = 120) -> int:
        """Wait for the end; returns the exit status, negative for a signal. Too long a wait kills it and fails."""
        deadline = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still runs after {seconds} s: {self.output.read_text()[-3000:]}")
            time.sleep(0.01)
        assert self.status is not None
        return self.status


def _work(work: Callable[[], object], output: Path) -> None:
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with output.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # handlers of earlier tests write where pytest reads
        logging.raiseExceptions = False
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            # a test may have filled the disk for this, too
            os._exit(status)
