"""Runs of the command line on tiny data, for tests."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from PIL import Image
from safetensors.torch import save_file

from eomt.cli import main
from tests.tiny import make_eomt


class PowerCut(Callback):
    """Ends a run after a step, as a failure would."""

    def __init__(self, step: int = 4) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


class StopsOnce(EarlyStopping):
    """Lightning's early stopping, which asks to stop after the first validation of training, and never again."""

    def __init__(self) -> None:
        super().__init__("val_iou", patience=1, min_delta=1.0, mode="max", check_on_train_epoch_end=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > 8:
            self.wait_count = -9
        super().on_validation_end(trainer, pl_module)


class Follower(Callback):
    """Notes after each step how many lines metrics.csv has."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        folder = Path(trainer.default_root_dir)
        file = folder / "metrics.csv"
        lines = len(file.read_text().splitlines()) if file.is_file() else 0
        with (folder / "followed.txt").open("a") as notes:
            notes.write(f"{trainer.global_step} {lines}\n")


def write_images(folder: Path, count: int, seed: int) -> None:
    """Images of 32 x 48 pixels: bright rectangles of class 1 or 2 on a dark class 0."""
    random = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        mask = np.zeros((32, 48), np.uint8)
        for label in (1, 2):
            top, left = random.integers(0, 20), random.integers(0, 30)
            mask[top : top + 12, left : left + 16] = label
        colors = np.array([[40, 40, 40], [220, 60, 60], [60, 60, 220]])
        image = (colors[mask] + random.integers(-30, 30, (32, 48, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{index:02d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{index:02d}.png")


@dataclass
class Workspace:
    """A folder with data, a base and a config; `run` is the command line."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "tiny.yaml"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def run(self, command: str, *args: str, config: bool = True) -> None:
        """Runs `command`; raises SystemExit as the program would."""
        given = ["--config", str(self.config)] if config else []
        main([command, *given, "--trainer.default_root_dir", str(self.runs), *args])

    def fit(self, name: str, *args: str) -> Path:
        """Trains; returns the run's folder."""
        self.run("fit", "--run_name", name, *args)
        return self.runs / name


def make_workspace(folder: Path) -> Workspace:
    """Data, a base that a file holds, and a config of 8 steps in 2 epochs."""
    write_images(folder / "data" / "train", 8, 0)
    write_images(folder / "data" / "val", 3, 1)
    write_images(folder / "data" / "test", 2, 2)
    torch.manual_seed(0)
    base = make_eomt(num_classes=3)
    base.attn_mask_probs.zero_()
    (folder / "base").mkdir()
    save_file(base.state_dict(), folder / "base" / "model.safetensors")
    encoder = {
        "class_path": "eomt.models.ViT",
        "init_args": {"backbone_name": "test_vit", "img_size": [32, 48], "patch_size": 8, "pretrained": False},
    }
    network = {
        "class_path": "eomt.models.EoMT",
        "init_args": {
            "num_q": 6,
            "num_blocks": 2,
            "masked_attn_enabled": False,
            "pretrained": str(folder / "base"),
            "encoder": encoder,
        },
    }
    lora = {"rank": 4, "lora_alpha": 8, "target_modules": ["attention", "mlp"], "freeze_base_model": True}
    lora["trainable_modules"] = ["class_head"]
    config: dict[str, Any] = {
        "model": {
            "class_path": "eomt.tasks.SemanticSegmentation",
            "init_args": {"lr": 3e-3, "num_points": 64, "network": network, "lora_config": lora},
        },
        "data": {
            "class_path": "datamodules.ImageMaskFolder",
            "init_args": {"path": str(folder / "data"), "batch_size": 2, "num_workers": 0},
        },
        "trainer": {
            "max_epochs": 2,
            "log_every_n_steps": 2,
            "callbacks": [
                "callbacks.LoRACheckpoint",
                "callbacks.MergeOnSave",
                "callbacks.EarlyStoppingOnIoU",
                {"class_path": "callbacks.PredictionPictures", "init_args": {"num_samples": 1}},
            ],
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return Workspace(folder)


def refusal(capsys: pytest.CaptureFixture[str], workspace: Workspace, *args: str, config: bool = True) -> str:
    """The one line that a refused command prints; it must exit with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        workspace.run(*args, config=config)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    assert lines[-1] == errors[0], lines
    return errors[0]
