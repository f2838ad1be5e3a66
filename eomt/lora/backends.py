"""The two ways to put adapters into a network whose targets are resolved."""

import warnings
from typing import Any

from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import set_module
from eomt.lora.config import Adaptation, LoRAConfig
from eomt.lora.layers import LoRAAttention, LoRAConv2d, LoRALayer, LoRALinear

NO_PEFT = "PEFT library not found! Falling back to manual LoRA implementation... (pip install peft)"


def inject_native(model: nn.Module, plan: Adaptation) -> None:
    config = plan.config
    for path, spec in plan.adapters.items():
        arguments: dict[str, Any] = {
            "rank": spec.rank,
            "lora_alpha": spec.alpha,
            "lora_dropout": config.lora_dropout,
            "use_rslora": config.use_rslora,
        }
        layer = model.get_submodule(path)
        if spec.slices:
            adapted: LoRALayer = LoRAAttention.from_layer(layer, slices=spec.slices, **arguments)  # type: ignore[arg-type]
        elif isinstance(layer, nn.Conv2d):
            adapted = LoRAConv2d.from_layer(layer, **arguments)
        else:
            adapted = LoRALinear.from_layer(layer, **arguments)  # type: ignore[arg-type]
        set_module(model, path, adapted)


def inject_peft(model: nn.Module, plan: Adaptation) -> None:
    # here, because PEFT may not be installed and takes seconds to import
    from eomt.lora.peft_format import peft_settings
    from eomt.lora.peft_layers import inject_layers

    sliced = next((path for path, spec in plan.adapters.items() if spec.slices), None)
    if sliced is not None:
        raise UserError(
            f"target_modules: query, key and value are slices of {sliced!r}, which PEFT cannot adapt apart; "
            "name the whole layer (attention, qkv) or use backend: native"
        )
    layers = {path: model.get_submodule(path) for path in plan.adapters}
    inject_layers(model, layers, peft_settings(plan), plan.config.init_lora_weights == "pissa")


def available_backend(config: LoRAConfig) -> str:
    """`config.backend`, or native with a warning if that is PEFT and it is not installed.

    Raises:
        UserError: if what the config asks for cannot be had without PEFT.
    """
    if config.backend == "native":
        return "native"
    try:
        import peft  # noqa: F401
    except ImportError as error:
        if config.use_dora or config.init_lora_weights == "pissa":
            raise UserError("backend: PEFT is not installed, and DoRA and PiSSA need it; pip install peft") from error
        warnings.warn(NO_PEFT, stacklevel=2)
        return "native"
    return "peft"
