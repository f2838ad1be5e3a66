"""A signal ends a command with the status of shells, whatever a library makes of it."""

import signal
from typing import Any

import pytest

from eomt import cli
from eomt.errors import UserError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_library_that_turns_a_signal_into_an_error_of_its_own(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*_: Any) -> bool:
        # PyTorch does so where it reads the size of a file's bytes
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise UserError("model.safetensors: cannot be read") from error
        return True

    monkeypatch.setattr(cli, "answered", read)
    # a shell lets what it starts in the background ignore Ctrl-C
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main(["inspect"])
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number
    assert not capsys.readouterr().err
