"""Adapters, weights, configurations and files of runs, and what reads them."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from eomt.app.checkpoint_files import load_checkpoint, step_of
from eomt.app.names import load as load_yaml
from eomt.app.reading import read_yaml
from eomt.app.trust import with_saved_config
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import fill, load_adapter, save_adapter
from eomt.models.weights.eomt.settings import Settings, metadata_of, read_own_settings
from eomt.models.weights.files import read_weights
from eomt.models.weights.transformers import read_model_config
from eomt.models.weights.vqa import read_vqa_layout
from eomt.utils.reading import read_text
from tests.tiny_sam2 import tiny_config
from tests.tiny_vqa import BART, make_tokenizer

RUNS = Path(__file__).parents[1] / "old_runs"
# a run's, cut: PyYAML is slow
SAVED = """
seed_everything: 1
model:
  class_path: eomt.tasks.SemanticSegmentation
  init_args:
    network: {class_path: eomt.models.EoMT, init_args: {num_q: 4, encoder: {class_path: eomt.models.ViT}}}
    lora_config: {class_path: eomt.models.lora_integration.LoRAConfig, init_args: {rank: 4}}
data: {class_path: datamodules.ImageMaskFolder, init_args: {path: a, ignore_labels: [255]}}
trainer:
  max_steps: 4
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: x}}
  callbacks: [{class_path: callbacks.LoRACheckpoint}, callbacks.MergeOnSave]
"""
COLORS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


# ------------------------------------------------------------------------------------------ adapters


class Network(nn.Module):
    """Two layers to adapt and one to train, so small that a case takes milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.head = nn.Linear(3, 2)


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def adapter_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        config = LoRAConfig(
            rank=2,
            target_modules=["blocks"],
            rank_pattern={"1": 1},
            alpha_pattern={"0": 4},
            trainable_modules=["head"],
            freeze_base_model=True,
        )
        return save_adapter(apply_lora(network(), config), folder / "adapter") / name

    return write


def read_adapter(file: Path) -> None:
    load_adapter(network(), file.parent)


def adapter_metadata(folder: Path) -> Path:
    """Write what stands in the metadata of an adapter's weights into a file of its own, to be changed as JSON."""
    weights = adapter_file("adapter_model.safetensors")(folder)
    with safe_open(weights, "pt") as file:
        found = {
            name: json.loads(text) if name in ("fingerprint", "slices") else text
            for name, text in file.metadata().items()
        }
    (folder / "adapter" / "metadata.txt").write_text(json.dumps(found))
    return folder / "adapter" / "metadata.txt"


def read_adapter_metadata(file: Path) -> None:
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        weights = file.parent / "adapter_model.safetensors"
        texts = {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}
        try:
            save_file(load_file(weights), weights, texts)
        except UnicodeEncodeError:
            return
        read_adapter(file)


# ------------------------------------------------------------------------------------------ weights of models


def own_weights(folder: Path) -> Path:
    settings = Settings(1e-6, (32, 48), COLORS, ["a", "b"])
    save_file({"q.weight": torch.ones(2, 3)}, folder / "model.safetensors", metadata_of(settings))
    return folder / "model.safetensors"


def read_own_weights(file: Path) -> None:
    read_own_settings(file)
    read_weights(file)


def torch_weights(new: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = {"model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1)}, "epoch": 3, "lr": [0.1]}
        torch.save(content, folder / "weights.pth", _use_new_zipfile_serialization=new)
        return folder / "weights.pth"

    return write


def weight_index(folder: Path) -> Path:
    save_file({"a": torch.ones(1)}, folder / "model-1.safetensors")
    save_file({"b": torch.ones(1)}, folder / "model-2.safetensors")
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def eomt_config(folder: Path) -> Path:
    fields = {"model_type": "eomt", "image_size": 640, "id2label": {"0": "a", "1": "b"}, "layer_norm_eps": 1e-6}
    fields |= {
        "num_blocks": 4,
        "rope_parameters": {"rope_theta": 100.0},
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


def processor_config(folder: Path) -> Path:
    fields = {"do_normalize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2], "size": {"height": 3}}
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder / "preprocessor_config.json"


def mae_config(folder: Path) -> Path:
    fields = {"model_type": "vit_mae", "hidden_size": 32, "num_hidden_layers": 2, "patch_size": 8}
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({"vit.layers.0.mlp.fc1.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    return folder / "config.json"


def sam2_config(folder: Path) -> Path:
    tiny_config().save_pretrained(folder)
    return folder / "config.json"


def vqa_config(folder: Path) -> Path:
    fields = {
        "format": "eomt.models.DeterministicVQA",
        "answer_head": "generative",
        "answers": ["red", "blue"],
        "question_types": None,
        "img_size": [28, 28],
        "fusion_layers": 2,
        "colours": COLORS,
        "vision_config": {"model_type": "dinov2", "hidden_size": 32},
        "text_config": BART,
    }
    (folder / "config.json").write_text(json.dumps(fields))
    return folder / "config.json"


def read_vqa_config(file: Path) -> None:
    found = read_vqa_layout(str(file.parent))
    read_model_config(found.vision_config, "vision_model")
    read_model_config(found.text_config, "text_model")


def bart_config(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(BART))
    return folder / "config.json"


def tokenizer_file(folder: Path) -> Path:
    return make_tokenizer(folder / "tokenizer") / "tokenizer.json"


# ------------------------------------------------------------------------------------------ runs


class Task(nn.Module):
    """What a checkpoint is read into."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A task of ours looks at its record here."""

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As that of our tasks."""
        fill(self, state_dict, "ckpt_path")


def checkpoint(folder: Path) -> Path:
    content = {"global_step": 7, "epoch": 1, "state_dict": Task().state_dict(), "loops": {"fit": [1, 2, {"a": 0.5}]}}
    torch.save(content, folder / "latest_lora_step7.ckpt")
    return folder / "latest_lora_step7.ckpt"


def read_checkpoint(file: Path) -> None:
    step_of(file)
    load_checkpoint(Task(), file)  # type: ignore[arg-type]


def saved_config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(SAVED)
    (folder / "model.safetensors").touch()
    return folder / "config.yaml"


def config_values(folder: Path) -> Path:
    """Write the same as JSON, which is YAML, to be changed by its values."""
    file = saved_config(folder)
    file.write_text(json.dumps(yaml.safe_load(file.read_text())))
    return file


def read_saved_config(file: Path) -> None:
    with_saved_config(["predict", "--ckpt_path", str(file.parent)])


def small_yaml(folder: Path) -> Path:
    text = "a: &x {b: [1, no, on, 0x1F], c: 2001-01-01}\nd: *x\ne:\n  <<: *x\n  f: ~\n- g\n"
    (folder / "a.yaml").write_text(text.removesuffix("- g\n"))
    return folder / "a.yaml"


def read_both_yamls(file: Path) -> None:
    text = read_text(file, "x")
    # which jsonargparse expects
    with contextlib.suppress(yaml.YAMLError):
        load_yaml(text)
    read_yaml(file)


def summary_file(folder: Path) -> Path:
    text = (RUNS / "eomt" / "training_summary.json").read_text()
    (folder / "training_summary.json").write_text(text)
    return folder / "training_summary.json"


def results_file(folder: Path) -> Path:
    summary_file(folder)
    (folder / "results").mkdir(exist_ok=True)
    content = {"task": "x", "weights": "a.ckpt", "metrics": {"test_iou": 0.5, "test_x": None}, "notes": ["a"]}
    (folder / "results" / "1_eval.json").write_text(json.dumps(content))
    return folder / "results" / "1_eval.json"


def beside(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return what reads the folder of a file."""
    return lambda file: read(file.parent)
