"""Files whose adapters are audited, and their base."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.record import adaptation_record
from eomt.verification.stored.report import audit_files
from tests.fuzz.model_files import adapter_file, network


def audited_folder(name: str, folder: Path) -> Path:
    """Write an adapter folder and its base; return the file of the folder that is changed."""
    save_file(network().state_dict(), folder / "base.safetensors")
    return adapter_file(name)(folder)


def read_audited(file: Path) -> None:
    """Audit the folder of a file, as printed and as JSON, with its base and without."""
    for base in (None, file.parents[1] / "base.safetensors"):
        report = audit_files(file.parent, base)
        assert str(report)
        json.dumps(report.to_dict(), allow_nan=False)


def whole_state(folder: Path) -> Path:
    """Write a state dict with pairs of several writers, and a base."""
    pairs = {
        "blocks.0.lora_A": torch.ones(4, 3),
        "blocks.0.lora_B": torch.ones(6, 2),
        "blocks.1.lora_down.weight": torch.ones(2, 3, 1, 1),
        "blocks.1.lora_mid.weight": torch.ones(2, 2, 1, 1),
        "blocks.1.lora_up.weight": torch.ones(3, 2, 1, 1),
        "blocks.1.alpha": torch.tensor(2.0),
        "lora_unet_head.lora_down.weight": torch.ones(1, 3),
        "lora_unet_head.lora_up.weight": torch.ones(2, 1),
        "lora_unet_head.dora_scale": torch.ones(2, 1),
    }
    save_file(network().state_dict(), folder / "base.safetensors")
    torch.save({"state_dict": network().state_dict() | pairs, "epoch": 1}, folder / "state.pt")
    return folder / "state.pt"


def safe_state(folder: Path) -> Path:
    """Write the same as safetensors."""
    save_file(torch.load(whole_state(folder), weights_only=True)["state_dict"], folder / "state.safetensors")
    return folder / "state.safetensors"


def read_state(file: Path) -> None:
    """Audit a state dict with its base."""
    report = audit_files(file, file.parent / "base.safetensors")
    assert str(report)
    json.dumps(report.to_dict(), allow_nan=False)


def record_file(folder: Path) -> Path:
    """Write the record of a checkpoint as JSON, to be changed by its values."""
    model = apply_lora(network(), LoRAConfig(rank=2, target_modules=["blocks"], freeze_base_model=True))
    done = adaptation(model)
    assert done is not None
    trained = {f"network.{name}": value for name, value in model.state_dict().items() if "lora" in name}
    save_file(trained, folder / "trained.safetensors")
    save_file(network().state_dict(), folder / "base.safetensors")
    (folder / "record.json").write_text(json.dumps(adaptation_record(done)))
    return folder / "record.json"


def read_record(file: Path) -> None:
    """Audit a checkpoint with that record."""
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return
    checkpoint = file.parent / "run.ckpt"
    torch.save({"state_dict": load_file(file.parent / "trained.safetensors"), "adaptation": found}, checkpoint)
    read_state(checkpoint)


def base_config(folder: Path) -> Path:
    """Write a base with a config.json that ties its weights, and an adapter whose names it lacks."""
    inside = folder / "model"
    inside.mkdir()
    save_file(network().state_dict(), inside / "model.safetensors")
    save_file(
        {"a.lm_head.lora_A.weight": torch.ones(1, 2), "a.lm_head.lora_B.weight": torch.ones(3, 1)},
        folder / "a.safetensors",
    )
    fields = {"model_type": "vit_mae", "tie_word_embeddings": True, "architectures": ["ViTMAEModel"], "hidden_size": 4}
    (inside / "config.json").write_text(json.dumps(fields | {"num_hidden_layers": 1, "num_attention_heads": 1}))
    return inside / "config.json"


def read_base_config(file: Path) -> None:
    """Audit the adapter with that base."""
    assert str(audit_files(file.parents[1] / "a.safetensors", file.parent))
