"""Which callbacks a command has, and what it says of those that it has not."""

import logging
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer

from callbacks import AdapterAudit, EncoderOnSave, LoRACheckpoint, MergeOnSave, PredictionPictures
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
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, command: str, listed: Any, missing: str | None
) -> None:
    monkeypatch.setattr(logging.getLogger("eomt"), "propagate", True)
    settings = {"callbacks": listed, "enable_checkpointing": None, "enable_progress_bar": False}
    with caplog.at_level(logging.INFO, logger="eomt"):
        found = run_callbacks(settings, command, {}, AdapterAudit())
    given = found if listed is None else listed if isinstance(listed, list) else [listed]
    assert all(callback in found for callback in given)
    said = [record.getMessage() for record in caplog.records]
    assert said == (
        [f"trainer.callbacks: the list takes the place of {missing}; add what you want of it"] if missing else []
    )
