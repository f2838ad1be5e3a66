"""Gradients that are accumulated over several batches: what is logged and validated keeps to the optimiser's steps."""

import csv
from pathlib import Path

import pytest

from callbacks.run.metrics_file import MetricsFile
from eomt.tasks import SemanticSegmentation
from tests.cli_runs import make_workspace


def test_figures_of_training_and_the_last_validation_keep_to_optimiser_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[bool] = []
    original = SemanticSegmentation.ends_logged_step
    monkeypatch.setattr(SemanticSegmentation, "ends_logged_step", lambda task: ends.append(original(task)) or ends[-1])
    # 4 batches an epoch, in steps of 3 and 1
    accumulated = ("--trainer.accumulate_grad_batches", "3", "--trainer.max_epochs", "3")
    validated = ("--trainer.val_check_interval", "9", "--trainer.check_val_every_n_epoch", "null")
    logged: list[int] = []
    add = MetricsFile.add

    def record(file: MetricsFile, step: int, row: dict[str, float]) -> None:
        logged.extend([step] if "train_loss" in row else [])
        add(file, step, row)

    monkeypatch.setattr(MetricsFile, "add", record)
    run = make_workspace(tmp_path).fit("accumulated", *accumulated, *validated)
    assert logged == [2, 4, 6]
    assert ends == [False, False, False, True] * 3
    rows = {int(row["step"]): row for row in csv.DictReader((run / "metrics.csv").open())}
    assert [step for step, row in rows.items() if row["val_iou"]] == [0, 4, 6]
