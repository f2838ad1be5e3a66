"""The two ways to put adapters into a network: this package's own layers, and those of PEFT."""

import warnings
from typing import Any

from torch import nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import set_module
from eomt.lora.config import Adaptation, LoRAConfig
from eomt.lora.layers import LoRAAttention, LoRAConv2d, LoRALayer, LoRALinear

NO_PEFT = "PEFT library not found! Falling back to manual LoRA implementation... (pip install peft)"


def inject_native(model: nn.Module, plan: Adaptation) -> None:
    """Replace the layers that `plan` names by this package's adapted ones, in place."""
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
    """Replace the layers that `plan` names by PEFT's adapted ones, in place.

    Raises:
        UserError: If the plan holds slices of a fused qkv, or PEFT cannot adapt a layer.
    """
    # imported here, since PEFT may not be installed and takes seconds to import
    from eomt.lora.peft_format import peft_settings
    from eomt.lora.peft_layers import inject_layers

    sliced = next((path for path, spec in plan.adapters.items() if spec.slices), None)
    if sliced is not None:
        raise UserError(
            f"target_modules: query, key and value are slices of {sliced!r}, which PEFT cannot adapt separately; "
            "name the whole layer (attention, qkv) or use backend: native"
        )
    layers = {path: model.get_submodule(path) for path in plan.adapters}
    inject_layers(model, layers, peft_settings(plan), plan.config.init_lora_weights == "pissa")


def available_backend(config: LoRAConfig) -> str:
    """Return the backend that `config` asks for; native, with a warning, where PEFT is not installed.

    Raises:
        UserError: If PEFT is not installed and the config asks for something that needs it.
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
