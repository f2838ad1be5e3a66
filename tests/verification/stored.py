"""Small adapters in files, and their base, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.verification.stored.report import audit_files

PREFIX = "base_model.model."
PATHS = [f"blocks.{index}.{name}" for index in range(3) for name in ("fc1", "fc2")]
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["fc1", "fc2"],
    "modules_to_save": ["head"],
    "bias": "none",
}
Tensors = dict[str, Tensor]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 16)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(16, 5)


def base() -> Network:
    torch.manual_seed(0)
    return Network()


def tensors(prefix: str = PREFIX) -> Tensors:
    """Pairs of rank 4 for all blocks, and a head in full, with PEFT's names."""
    torch.manual_seed(1)
    found = {f"{prefix}head.weight": torch.randn(5, 16), f"{prefix}head.bias": torch.randn(5)}
    for path, weight in base().named_parameters():
        if path.removesuffix(".weight") in PATHS:
            name = prefix + path.removesuffix("weight")
            found[f"{name}lora_A.weight"] = torch.randn(4, weight.shape[1]) * 0.1
            found[f"{name}lora_B.weight"] = torch.randn(weight.shape[0], 4) * 0.1
    return found


def write(folder: Path, state: Tensors | None = None, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors() if state is None else state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG if config is None else config))
    return folder


def write_base(folder: Path, state: Tensors | None = None) -> Path:
    save_file(base().state_dict() if state is None else state, folder / "base.safetensors")
    return folder / "base.safetensors"


def kinds(path: Path, base_path: Path | None = None) -> list[str]:
    return sorted({finding.kind for finding in audit_files(path, base_path).findings})


def renamed(change: Callable[[str], str]) -> Tensors:
    return {change(name): value for name, value in tensors().items()}


def changed(name: str, value: Tensor) -> Tensors:
    return tensors() | {f"{PREFIX}{name}": value}


def kohya(state: Tensors) -> Tensors:
    found = {}
    for name, value in state.items():
        if "lora" in name:
            path, _, half = name.removeprefix(PREFIX).rpartition(".lora_")
            flat = f"lora_unet_{path.replace('.', '_')}"
            found[f"{flat}.lora_{'down' if half[0] == 'A' else 'up'}.weight"] = value
            found[f"{flat}.alpha"] = torch.tensor(8.0)
    return found


def adapted(**options: Any) -> nn.Module:
    config = LoRAConfig(
        rank=4,
        lora_alpha=8,
        target_modules=["blocks"],
        trainable_modules=["head"],
        freeze_base_model=True,
        **options,
    )
    model = apply_lora(base(), config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model
