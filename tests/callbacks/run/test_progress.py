import io
import itertools
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import rich
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.run import progress
from callbacks.run.progress import ProgressBar


class Task(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.layer(batch["image"].flatten(1).float()).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        time.sleep(0.03)  # long enough to be drawn
        self.log("val_loss", torch.tensor(0.25))
        self.log("val_iou", torch.tensor(0.75))
        self.log("val_iou/road", torch.tensor(0.5))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def loader() -> DataLoader:
    return DataLoader([{"image": torch.ones(3, 2, 2, dtype=torch.uint8)} for _ in range(20)], batch_size=5)


def fit(folder: Path, bar: ProgressBar, **arguments: Any) -> lightning.Trainer:
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        num_sanity_val_steps=-1,
        callbacks=[bar],
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **arguments,
    )
    trainer.fit(Task(), loader(), loader())
    return trainer


@pytest.fixture
def terminal() -> Iterator[dict[str, Any]]:
    """Arguments of a console that claims to be a terminal; lightning reconfigures rich's global one with them."""
    before = rich.get_console().__dict__.copy()
    yield {"force_terminal": True, "file": io.StringIO(), "width": 200, "_environ": {"TERM": "xterm"}}
    rich.get_console().__dict__ = before


def test_without_a_terminal_there_is_one_line_per_validation(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    console = io.StringIO()
    with caplog.at_level(logging.INFO, "eomt"):
        fit(tmp_path, ProgressBar(console_kwargs={"file": console}))
    assert console.getvalue() == ""
    lines = [record.getMessage() for record in caplog.records if record.name == "eomt"]
    assert len(lines) == 3
    assert lines[0] == "Baseline (step 0): val_loss 0.25, val_iou 0.75"
    assert re.fullmatch(r"step 8: train_loss [\d.e+-]+, val_loss 0.25, val_iou 0.75, [\d.]+ images/s", lines[2]), lines[
        2
    ]
    assert "Epoch" not in capsys.readouterr().out


def test_without_a_terminal_long_training_has_lines_between_validations(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 G: in place of the bar; the clock moves by twenty seconds whenever it is read."""
    clock = itertools.count(20.0, 20.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "eomt"):
        fit(tmp_path, ProgressBar(console_kwargs={"file": io.StringIO()}))
    messages = [record.getMessage() for record in caplog.records if record.name == "eomt"]
    lines = [message for message in messages if "val_" not in message]
    assert len(lines) >= 2
    assert all(re.fullmatch(r"step \d: train_loss [\d.e+-]+(, [\d.]+ images/s)?", line) for line in lines), lines


def test_on_a_terminal_the_bar_shows_loss_iou_and_speed(
    tmp_path: Path, terminal: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bar = ProgressBar(refresh_rate=100, console_kwargs=terminal)
    with caplog.at_level(logging.INFO, "eomt"):
        trainer = fit(tmp_path, bar)
    assert bar.is_enabled
    assert not [record for record in caplog.records if record.name == "eomt"]
    shown = terminal["file"].getvalue()
    assert "Baseline (step 0)" in shown
    assert "Sanity Checking" not in shown
    assert "val_iou: 0.750" in shown
    assert "train_loss: " in shown
    assert "train_loss_" not in shown
    assert re.search(r"images/s: \d+\.\d", shown)
    assert "v_num" not in shown
    assert "v_num" in super(ProgressBar, bar).get_metrics(trainer, trainer.lightning_module)


def test_speed_is_images_of_all_processes_per_second_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock)
    monkeypatch.setattr(lightning.Trainer, "world_size", 3)
    bar, trainer, batch = ProgressBar(), lightning.Trainer(accelerator="cpu", logger=False), {"image": torch.ones(5, 1)}
    task = Task()
    assert bar.images_per_second == 0
    for batch_idx in range(3):
        bar.on_train_batch_start(trainer, task, batch, batch_idx)
        clock += 0.5
        bar.on_train_batch_end(trainer, task, {}, batch, batch_idx)
        assert bar.images_per_second == pytest.approx(30)
    bar.on_validation_start(trainer, task)
    clock += 1000  # the validation
    bar.on_train_batch_start(trainer, task, batch, 3)
    clock += 0.5
    bar.on_train_batch_end(trainer, task, {}, batch, 3)
    assert bar.images_per_second == pytest.approx(30)
    for batch_idx in range(60):  # recent batches outweigh early ones
        clock += 0.25
        bar.on_train_batch_end(trainer, task, {}, batch, batch_idx)
    assert bar.images_per_second == pytest.approx(60, rel=0.01)


def predict(folder: Path, bar: ProgressBar) -> None:
    trainer = lightning.Trainer(
        default_root_dir=folder, accelerator="cpu", callbacks=[bar], logger=False, enable_checkpointing=False
    )
    task = Task()
    task.predict_step = lambda batch, batch_idx: time.sleep(0.03)  # type: ignore[method-assign]
    trainer.predict(task, loader())


def test_predict_shows_its_speed_in_the_bar_and_without_a_terminal_in_lines(
    tmp_path: Path, terminal: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict(tmp_path, ProgressBar(refresh_rate=100, console_kwargs=terminal))
    assert re.search(r"Predicting, \d+\.\d images/s", terminal["file"].getvalue())
    clock = itertools.count(20.0, 20.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "eomt"):
        predict(tmp_path, ProgressBar(console_kwargs={"file": io.StringIO()}))
    lines = [record.getMessage() for record in caplog.records if record.name == "eomt"]
    assert lines
    assert all(re.fullmatch(r"predict: batch \d of 4, [\d.]+ images/s", line) for line in lines), lines


def test_only_step_0_is_called_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    bar, trainer = ProgressBar(), lightning.Trainer(accelerator="cpu", logger=False)
    bar.setup(trainer, Task(), "fit")
    assert bar.sanity_check_description == "Baseline (step 0)"
    monkeypatch.setattr(lightning.Trainer, "global_step", 7)
    assert bar.sanity_check_description == "Resumed (step 7)"
