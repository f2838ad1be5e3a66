"""Networks adapted by either backend, for tests."""

import zlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import adapter_parameters, lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models import EoMT
from tests.tiny import make_eomt, make_image

BACKENDS = ["native", "peft"]
both = pytest.mark.parametrize("backend", BACKENDS)
CONFIGS: dict[str, dict[str, Any]] = {
    "encoder and heads": {"target_modules": ["attention", "mlp"], "trainable_modules": ["q", "class_head"]},
    "rslora and patterns": {
        "target_modules": ["qkv", "mlp"],
        "use_rslora": True,
        "rank_pattern": {"fc1": 2},
        "alpha_pattern": {"fc2": 5},
    },
    "last blocks": {"target_modules": ["attention"], "layers": "last:2", "exclude_modules": ["proj"]},
    "convolution": {"target_modules": ["upscale"], "rank": 4},
}
configs = pytest.mark.parametrize("arguments", CONFIGS.values(), ids=CONFIGS.keys())
DORA = {"target_modules": ["attention", "mlp", "upscale"], "use_dora": True, "backend": "peft"}
PISSA = {"target_modules": ["attention", "mlp"], "init_lora_weights": "pissa", "backend": "peft"}
# PiSSA decomposes weights of 16 or 32 bits only, so that what it takes out is known to some 1e-6
variants = pytest.mark.parametrize(
    ("arguments", "dtype", "tolerance"),
    [(DORA, torch.float64, 1e-10), (PISSA, torch.float32, 1e-4)],
    ids=["dora", "pissa"],
)


def base(dtype: torch.dtype = torch.float64) -> EoMT:
    """Return the base, in double precision: what holds by algebra holds there to 1e-10, on every processor."""
    torch.manual_seed(0)
    return make_eomt().to(dtype).eval()


def adapted(model: nn.Module | None = None, **arguments: Any) -> Any:
    """Adapted and moved away from where it starts; the same values in both backends."""
    config = LoRAConfig(freeze_base_model=True, **arguments)
    model = apply_lora(model or base(), config).eval()
    names = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = names.get(name, name)
            path = next((path for path in lora_layers(model) if name.startswith(f"{path}.")), "")
            seed = zlib.crc32(f"{path}.{kind}".encode())
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator) * 0.2
            # what starts from the base's own values stays near them
            starts_at_random = kind == "lora_A" and config.init_lora_weights == "default"
            parameter.data = noise if starts_at_random else parameter.data + noise
    return model


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Check that two tensors are equal up to `tolerance` of the largest value."""
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def step(model: nn.Module, steps: int = 1) -> None:
    """Trains in training mode on a fixed loss, without dropout's chance."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        torch.manual_seed(3)
        final = model(make_image())[-1]
        loss = final.mask_logits.square().mean() + final.class_logits.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def answer(model: nn.Module) -> Tensor:
    with torch.no_grad():
        final = model(make_image())[-1]
    return torch.cat([final.mask_logits.flatten(), final.class_logits.flatten()])
