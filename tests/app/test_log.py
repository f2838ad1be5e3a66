"""What a command prints is text, whatever the files are called that it speaks of."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from eomt.app.log import log, set_up_output, show

NAME = "\x1b]0;owned\x07\x1b[2J\ncaf\udce9.png"
WRITTEN_OUT = r"\x1b]0;owned\x07\x1b[2J\ncaf\udce9.png"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = (list(log.handlers), list(log.filters), log.level, log.propagate)
    yield
    log.handlers[:], log.filters[:], log.level, log.propagate = before


def test_names_of_files_reach_the_terminal_and_the_log_file_as_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_output()
    set_up_output()
    file = logging.FileHandler(tmp_path / "training.log", encoding="utf-8")
    log.addHandler(file)
    log.info("%s is left out (%d %%)", NAME, 5)
    show(f"Base: {NAME}")
    file.close()
    assert capsys.readouterr().out == f"{WRITTEN_OUT} is left out (5 %)\nBase: {WRITTEN_OUT}\n"
    assert (tmp_path / "training.log").read_text() == f"{WRITTEN_OUT} is left out (5 %)\n"
