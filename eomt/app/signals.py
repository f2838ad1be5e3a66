"""Signals that end a command."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

# Windows has no hang-up
HANG_UP = getattr(signal, "SIGHUP", None)
# Lightning's module of its exceptions; it takes seconds to load
EXCEPTIONS = "lightning.pytorch.utilities.exceptions"


class Ending:
    """The signal that ends a command, if one came.

    SIGTERM ends it at once while it sets up. In a training, Lightning ends it after the step. The end of a terminal
    (SIGHUP) counts as SIGTERM, but for whoever ignores it, as `nohup` does.

    Attributes:
        number: The signal; None if none came.
        is_at_once: Whether it ended the command where it stood. An error that comes after it is what a library made
            of that: a library in C++ may drop the exception of the signal and raise one of its own.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.is_at_once = False

    @property
    def status(self) -> int:
        """Exit status of a command that a signal ended, as shells give it."""
        return 128 + (self.number or signal.SIGTERM)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.is_at_once = True
        raise KeyboardInterrupt

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        # else Lightning has put its own handler around this one
        if signal.getsignal(signal.SIGTERM) == self._terminate:
            exceptions = sys.modules.get(EXCEPTIONS)
            self.is_at_once = True
            # before Lightning is loaded, nobody waits for its own
            raise getattr(exceptions, "SIGTERMException", SystemExit)(self.status)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.raise_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle signals within a block, in the main thread, where nobody else does."""
        handlers = {signal.SIGTERM: self._terminate, signal.SIGINT: self._interrupt}
        if HANG_UP is not None:
            handlers[HANG_UP] = self._hang_up
        usual = (signal.SIG_DFL, signal.default_int_handler)
        is_main = threading.current_thread() is threading.main_thread()
        ours = [number for number in handlers if is_main and signal.getsignal(number) in usual]
        before = {number: signal.signal(number, handlers[number]) for number in ours}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def is_termination(error: BaseException) -> bool:
    """Return whether an exception is Lightning's answer to SIGTERM, which exits as if the run were complete."""
    exceptions = sys.modules.get(EXCEPTIONS)
    return exceptions is not None and isinstance(error, exceptions.SIGTERMException)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C wait for the end of a block, such as one that removes what a first Ctrl-C left."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
