"""Merging, file names, early stopping, the CSV and the last line."""

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import nn

from callbacks import EarlyStoppingOnIoU, LoRACheckpoint, MergeOnSave, RunSummary
from callbacks.run import run_summary
from callbacks.run.metrics_file import MetricsFile
from callbacks.run.run_folder import metric_value
from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import lora_layers
from eomt.report import verdict
from eomt.tasks import MorphDetection, SemanticSegmentation
from eomt.utils.files import write_file
from eomt.verification.merging import merged_copy
from tests.tiny import make_eomt, make_image
from tests.tiny_morph import make_detector


def make_task() -> SemanticSegmentation:
    torch.manual_seed(0)
    lora = LoRAConfig(rank=2, target_modules=["attention", "mlp", "mask_head", "upscale"], freeze_base_model=True)
    task = SemanticSegmentation(make_eomt(num_classes=3), lora)
    for layer in lora_layers(task.network).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    return task


def test_a_merged_copy_answers_alike_and_the_original_keeps_its_adapters() -> None:
    task = make_task()
    merged, absolute, relative = merged_copy(task.network, {"image": make_image()}, task.outputs)
    assert relative < 1e-4
    assert absolute > 0
    assert not lora_layers(merged)
    assert len(lora_layers(task.network)) == 28


def test_a_merge_that_changes_an_answer_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, callback = make_task(), MergeOnSave()
    callback._batch = {"image": make_image()}
    trainer: Any = SimpleNamespace(is_global_zero=True)
    callback.merge(trainer, task, tmp_path / "best_lora_step1_iou0.5.ckpt")
    assert (tmp_path / "best_merged_step1_iou0.5" / "model.safetensors").is_file()

    layer = next(iter(lora_layers(task.network).values()))
    monkeypatch.setattr(type(layer), "delta_weight", lambda self: torch.zeros_like(self.weight))
    callback.merge(trainer, task, tmp_path / "best_lora_step2_iou0.6.ckpt")
    assert not list(tmp_path.glob("best_merged_*"))
    assert callback.relative_diff is not None
    assert callback.relative_diff > 1e-4
    assert callback.name == ""


def test_a_merge_that_is_not_a_number_is_not_written(tmp_path: Path) -> None:
    task, callback = make_task(), MergeOnSave()
    nn.init.constant_(next(iter(lora_layers(task.network).values())).lora_b, float("nan"))
    callback._batch = {"image": make_image()}
    trainer: Any = SimpleNamespace(is_global_zero=True)
    callback.merge(trainer, task, tmp_path / "best_lora_step1_iou0.5.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_merged_file_is_plain_pytorch(tmp_path: Path) -> None:
    task, callback = make_task(), MergeOnSave()
    callback._batch = {"image": make_image()}
    trainer: Any = SimpleNamespace(is_global_zero=True)
    callback.merge(trainer, task, tmp_path / "best_lora_step1_iou0.5.ckpt")
    state = load_file(tmp_path / "best_merged_step1_iou0.5" / "model.safetensors")
    assert not [name for name in state if "lora" in name]
    plain = make_eomt(num_classes=3)
    plain.load_state_dict(state)
    task.eval()
    expected = task.network(make_image())[-1].mask_logits
    torch.testing.assert_close(plain.eval()(make_image())[-1].mask_logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mode", "scores", "best"), [("max", [0.2, 0.5, 0.4], 0.5), ("min", [0.5, 0.2, 0.4], 0.2)])
def test_best_follows_the_mode_and_ignores_nan(mode: Any, scores: list[float], best: float) -> None:
    callback = LoRACheckpoint(mode=mode)
    for score in [float("nan"), *scores, float("nan")]:
        if callback._is_best(score):
            callback.best_score = score
    assert callback.best_score == best


def test_random_states_go_through_a_safe_checkpoint(tmp_path: Path) -> None:
    callback = LoRACheckpoint()
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    expected = torch.rand(3)
    callback.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.rand(3), expected)


def test_a_metric_that_is_not_logged_is_refused_with_those_that_are() -> None:
    trainer: Any = SimpleNamespace(callback_metrics={"val_iou": 0.5, "val_iou/road": 0.1, "train_loss": 1})
    with pytest.raises(UserError, match=r"'val_uoi' is not logged; there are: val_iou$"):
        metric_value(trainer, "val_uoi", "LoRACheckpoint")


def test_early_stopping_counts_validations_and_needs_min_delta() -> None:
    callback = EarlyStoppingOnIoU(patience=2, min_delta=0.1)
    stops = []
    for score in (0.5, 0.55, 0.65, 0.7, 0.74):
        stop, _ = callback._evaluate_stopping_criteria(torch.tensor(score))
        stops.append(stop)
    assert stops == [False, False, False, False, True]


@pytest.mark.parametrize("monitor", [None, "val_eer"])
def test_early_stopping_watches_what_the_task_selects_by(monitor: str | None) -> None:
    callback = EarlyStoppingOnIoU(monitor, patience=2, min_delta=0.1)
    for stage in ("fit", "test"):
        callback.setup(Trainer(logger=False), MorphDetection(make_detector()), stage)
    assert (callback.monitor, callback.mode) == ("val_eer", "min")
    scores = (0.9, 0.7, 0.55, 0.5, 0.48)
    stops = [callback._evaluate_stopping_criteria(torch.tensor(score))[0] for score in scores]
    assert stops == [False, False, False, False, True]


def test_early_stopping_on_a_metric_of_ones_own_keeps_it() -> None:
    callback = EarlyStoppingOnIoU("val_f1")
    callback.setup(Trainer(logger=False), MorphDetection(make_detector()), "fit")
    assert (callback.monitor, callback.mode) == ("val_f1", "max")


def test_rows_are_kept_up_to_the_step_resumed_from(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (0, 10, 20):
        file.add(step, {"val_iou": step / 100})
    file.add(20, {"train_loss": 1.5})
    file.save()
    resumed = MetricsFile(tmp_path / "metrics.csv")
    resumed.resume(10)
    resumed.add(20, {"val_iou": 0.9})
    resumed.save()
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines == ["step,val_iou,train_loss", "0,0.0,", "10,0.1,", "20,0.9,"]


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "summary.json", fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "val_iou: 0.3000 at step 0, 0.5000 at step 20 (+0.2000)."),
        ({"best": 0.3, "best_step": 0}, "never beat step 0"),
        ({"baseline": None}, "step 0 was not measured"),
        ({"best": None}, "Nothing was validated"),
    ],
)
def test_the_last_line_says_whether_training_helped(changes: dict, line: str) -> None:
    assert line in verdict({"metric": "val_iou", "baseline": 0.3, "best": 0.5, "best_step": 20} | changes)


def test_tests_of_one_second_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the figures of the first were removed, and its other files stay."""
    now = datetime(2026, 1, 2, 3, 4, 5)
    monkeypatch.setattr(run_summary, "datetime", SimpleNamespace(now=lambda: now))
    summary, trainer = RunSummary(), SimpleNamespace(is_global_zero=True, callback_metrics={})
    summary._folder = tmp_path
    (tmp_path / "results" / "20260102-030405_examples").mkdir(parents=True)
    names = []
    for _ in range(2):
        summary.on_test_end(trainer, make_task())  # type: ignore[arg-type]
        assert summary.results is not None
        names.append(summary.results.name)
    assert names == ["20260102-030405_again_eval.json", "20260102-030405_again_again_eval.json"]
