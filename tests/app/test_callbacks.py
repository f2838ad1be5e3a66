"""Which callbacks a command has, and what it says of those that it has not."""

from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer

import eomt.app.callbacks
from callbacks import AdapterAudit, EncoderOnSave, LoRACheckpoint, MergeOnSave, PredictionPictures, ReportOnTest
from eomt.app.callbacks import run_callbacks

BOTH = "callbacks.MergeOnSave and callbacks.PredictionPictures"


@pytest.mark.parametrize(
    ("command", "listed", "missing"),
    [
        ("fit", None, None),
        ("fit", Timer(), BOTH),
        ("fit", [Timer(), LoRACheckpoint()], BOTH),
        ("fit", [PredictionPictures()], "callbacks.MergeOnSave"),
        ("fit", [MergeOnSave()], None),
        ("fit", [EncoderOnSave()], None),
        ("test", [Timer()], None),
    ],
)
def test_a_list_in_the_place_of_the_usual_callbacks_is_said(
    monkeypatch: pytest.MonkeyPatch, command: str, listed: Any, missing: str | None
) -> None:
    said: list[str] = []
    monkeypatch.setattr(eomt.app.callbacks.log, "info", lambda text, *args: said.append(text % args))
    settings = {"callbacks": listed, "enable_checkpointing": None, "enable_progress_bar": False}
    found = run_callbacks(settings, command, {}, AdapterAudit())
    given = found if listed is None else listed if isinstance(listed, list) else [listed]
    assert all(callback in found for callback in given)
    line = f"trainer.callbacks: the list takes the place of {missing}; add what you want of it"
    assert said == ([line] if missing else [])


@pytest.mark.parametrize(("command", "is_last"), [("test", True), ("fit", False), ("validate", False)])
def test_a_test_ends_with_the_page_of_its_run(command: str, is_last: bool) -> None:
    settings = {"callbacks": [Timer()], "enable_checkpointing": None, "enable_progress_bar": False}
    found = run_callbacks(settings, command, {}, AdapterAudit())
    assert isinstance(found[-1], ReportOnTest) == is_last
    assert sum(isinstance(callback, ReportOnTest) for callback in found) == is_last
