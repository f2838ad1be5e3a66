"""Output whose reader may go away: `python main.py fit | head` ends the output and not the training."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from eomt.errors import UserError


class _Output:
    """A text stream that drops what is written once nobody reads it.

    Args:
        stream: stdout or stderr.
        name: Its name for messages; None for a stream that can only drop, since messages go there.
    """

    def __init__(self, stream: TextIO, name: str | None) -> None:
        self._stream, self._name = stream, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, or drop it.

        Raises:
            UserError: If it cannot be written, for another reason than that nobody reads it.
        """
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Write what was kept back, or drop it.

        Raises:
            UserError: As for `write`.
        """
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        # what is still kept back goes there too, else Python would complain at its end
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._name is not None and not isinstance(error, BrokenPipeError):
            raise UserError(f"{self._name}: cannot be written ({error.strerror}); send it elsewhere") from error


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Let a block go on where nobody reads its stdout or stderr any more.

    Raises:
        UserError: While it runs, if stdout cannot be written for another reason, such as a full disk.
    """
    out, err = _Output(sys.stdout, "stdout"), _Output(sys.stderr, None)
    with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
        try:
            yield
        finally:
            for stream in (out, err):
                # an error of stdout was raised before
                with contextlib.suppress(UserError):
                    stream.flush()
