"""States in a checkpoint that a run cannot go on from: refused in one line, without a long time or much memory."""

import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cli_runs import Workspace, make_workspace, refusal

Forge = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("forged"))


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Path:
    return workspace.fit("first")


def of(saved: dict[str, Any], callback: str) -> dict[str, Any]:
    return next(state for key, state in saved["callbacks"].items() if key.startswith(callback))


def png(width: int, height: int) -> Tensor:
    """A gray PNG of zeros, a thousandth of its pixels long."""

    def part(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(bytes(1 + width)) for _ in range(height)) + packed.flush()
    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", rows) + part(b"IEND", b"")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def metric(saved: dict[str, Any]) -> dict[str, Any]:
    return of(saved, "LoRACheckpoint")["training_metrics"]["train_metric"]


def first_moments(saved: dict[str, Any]) -> dict[str, Any]:
    return next(iter(saved["optimizer_states"][0]["state"].values()))


FORGED: dict[str, Forge] = {
    "confusion of other classes": lambda saved: metric(saved).update(confusion=torch.zeros(3, 5)),
    "confusion of floats": lambda saved: metric(saved).update(confusion=torch.zeros(3, 3)),
    "confusion no tensor": lambda saved: metric(saved).update(confusion=[1, 2]),
    "metrics no states": lambda saved: of(saved, "LoRACheckpoint").update(training_metrics={"train_metric": 3}),
    "gradients no tensors": lambda saved: of(saved, "LoRACheckpoint").update(gradients={"network.q.weight": "x"}),
    "best score a text": lambda saved: of(saved, "LoRACheckpoint").update(best_score="0.5"),
    "best step a text": lambda saved: of(saved, "LoRACheckpoint").update(best_step="four"),
    "baseline a list": lambda saved: of(saved, "LoRACheckpoint").update(baseline=[1]),
    "difference a text": lambda saved: of(saved, "MergeOnSave").update(max_abs_diff="small"),
    "seconds without end": lambda saved: of(saved, "RunSummary").update(seconds=float("inf")),
    "patience a text": lambda saved: of(saved, "EarlyStoppingOnIoU").update(wait_count="x"),
    "best of stopping a row": lambda saved: of(saved, "EarlyStoppingOnIoU").update(best_score=torch.zeros(3)),
    "step 0 a picture of a billion pixels": lambda saved: of(saved, "PredictionPictures").update(
        step_0={"00.png": png(60000, 20000)}
    ),
    "step 0 a byte that stands for many": lambda saved: of(saved, "PredictionPictures").update(
        step_0={"00.png": torch.zeros(1, dtype=torch.uint8).expand(10**10)}
    ),
    "step 0 no picture": lambda saved: of(saved, "PredictionPictures").update(step_0={"00.png": torch.zeros(9)}),
    "step 0 torn": lambda saved: of(saved, "PredictionPictures").update(step_0={"00.png": png(48, 32)[:-20]}),
    "moments of texts": lambda saved: first_moments(saved).update(exp_avg="x"),
    "moments without a shape": lambda saved: first_moments(saved).update(exp_avg=torch.tensor(1.0)),
    "moments no mapping": lambda saved: saved["optimizer_states"][0]["state"].update({0: "x"}),
    "rate a text": lambda saved: saved["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
    "rates of the schedule texts": lambda saved: saved["lr_schedulers"][0].update(base_lrs=["x"]),
    "loops of texts": lambda saved: saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"].update(ready="x"),
    "loops a list": lambda saved: saved["loops"].update(fit_loop=[1]),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_state_is_refused_in_one_line(
    workspace: Workspace, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], forge: Forge
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    saved = torch.load(run / "final_lora_step8.ckpt", weights_only=True)
    forge(saved)
    torch.save(saved, copy / "latest_lora_step9.ckpt")
    start = time.monotonic()
    path = str(copy / "latest_lora_step9.ckpt")
    error = refusal(capsys, workspace, "fit", "--ckpt_path", path, "--trainer.max_epochs", "4")
    assert "ckpt_path: " in error
    assert len(error) < 400
    assert time.monotonic() - start < 20


def test_masks_of_step_0_that_are_too_large_for_their_image_are_not_unpacked(
    workspace: Workspace, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 100 kB may hold a mask of 100 million pixels: it is looked at, and left alone."""
    saved = torch.load(run / "final_lora_step8.ckpt", weights_only=True)
    names = list(of(saved, "PredictionPictures")["step_0"])
    of(saved, "PredictionPictures")["step_0"] = dict.fromkeys(names, png(10000, 9000))
    torch.save(saved, run / "forged.ckpt")
    monkeypatch.setattr("callbacks.pictures.predictions.decode_png", lambda *_: pytest.fail("was unpacked"))
    path = str(run / "forged.ckpt")
    workspace.run("fit", "--run_name", "second", "--ckpt_path", path, "--trainer.max_epochs", "3")
