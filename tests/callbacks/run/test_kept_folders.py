"""A file that a user puts into a folder of a run outlives the better step that replaces the folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from callbacks import EncoderOnSave, LoRACheckpoint, MergeOnSave
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import lora_layers
from eomt.models import MaskedAutoencoder
from eomt.models.weights.mae import is_encoder_folder
from eomt.tasks import SemanticSegmentation
from tests.tiny import make_eomt, make_image


@pytest.fixture
def task() -> SemanticSegmentation:
    lora = LoRAConfig(rank=2, target_modules=["attention"], freeze_base_model=True)
    made = SemanticSegmentation(make_eomt(num_classes=3), lora)
    for layer in lora_layers(made.network).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    return made.eval()


class Best:
    """A run in a folder, in which the n-th step becomes the best."""

    def __init__(self, folder: Path, task: SemanticSegmentation) -> None:
        self.task, self.checkpoint, self.merge = task, LoRACheckpoint(), MergeOnSave()
        self.checkpoint._folder = folder
        self.merge._batch = {"image": make_image()}
        self.checkpoint.on_best.append(self.merge.merge)
        with torch.no_grad():
            task.network(make_image())

    def save(self, step: int) -> None:
        metrics = {f"val_{name}": torch.tensor(0.5) for name in self.task.file_metrics}
        trainer: Any = SimpleNamespace(
            global_step=step, is_global_zero=True, callback_metrics=metrics, save_checkpoint=lambda path: path.touch()
        )
        self.checkpoint._save_best(trainer, self.task)


def test_only_a_folder_with_more_than_the_run_wrote_is_kept(tmp_path: Path, task: SemanticSegmentation) -> None:
    best = Best(tmp_path, task)
    best.save(1)
    for folder in (path for path in tmp_path.iterdir() if path.is_dir()):
        (folder / "README.md").write_text("my card")
    for step in (2, 3):
        best.save(step)
    kept = sorted((path.parent.name.partition("_iou")[0], path.read_text()) for path in tmp_path.glob("*/README.md"))
    assert kept == [("best_lora_step1", "my card"), ("best_merged_step1", "my card")]
    assert not list(tmp_path.glob("*_step2_*"))
    assert len(list(tmp_path.glob("*_step3_*"))) == 3


def test_a_best_step_that_is_reached_again_is_written_beside_the_file(
    tmp_path: Path, task: SemanticSegmentation
) -> None:
    best = Best(tmp_path, task)
    best.save(1)
    folders = sorted(path for path in tmp_path.iterdir() if path.is_dir())
    names = [sorted(path.name for path in folder.iterdir()) for folder in folders]
    for folder in folders:
        (folder / "README.md").write_text("my card")
    # without a configuration a merged folder is not known as one's own
    best.merge.config = "model: {}"
    best.save(1)
    for folder, before in zip(folders, names, strict=True):
        assert folder.with_name(f"{folder.name}_1").joinpath("README.md").read_text() == "my card"
        assert sorted(path.name for path in folder.iterdir() if path.name != "config.yaml") == before


def test_an_encoder_with_a_file_of_the_user_does_not_end_a_training(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"img_size": (16, 16), "patch_size": 8, "hidden_size": 16, "depth": 1, "num_heads": 2}
    decoder: dict[str, Any] = {"decoder_depth": 1, "decoder_hidden_size": 16, "decoder_num_heads": 2}
    network = MaskedAutoencoder(pretrained=False, **sizes, **decoder)
    trainer: Any = SimpleNamespace(is_global_zero=True)
    task: Any = SimpleNamespace(network=network)
    write = EncoderOnSave().write
    write(trainer, task, tmp_path / "best_lora_step1.ckpt")
    (tmp_path / "encoder" / "README.md").write_text("my card")
    for step in (2, 3):
        write(trainer, task, tmp_path / f"best_lora_step{step}.ckpt")
    assert is_encoder_folder(tmp_path / "encoder")
    assert (tmp_path / "encoder_1" / "README.md").read_text() == "my card"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "encoder_1"]


def test_a_copy_of_a_checkpoint_under_a_longer_name_is_kept(tmp_path: Path) -> None:
    for name in ("latest_lora_step4.ckpt", "latest_lora_step8.ckpt", "latest_lora_step4_before_the_change.ckpt"):
        (tmp_path / name).touch()
    checkpoint = LoRACheckpoint()
    checkpoint._folder = tmp_path
    checkpoint._remove_others("latest_lora_step8.ckpt", "latest")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest_lora_step4_before_the_change.ckpt",
        "latest_lora_step8.ckpt",
    ]
