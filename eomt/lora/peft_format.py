"""PEFT's adapter format: the tensors and the config that are written for an adapted network.

PEFT matches names in its own ways (measured on peft 0.21.2), which decide how names are written here. A name in
`target_modules` matches the path itself and every path that ends with a dot and that name; a name in `modules_to_save`
every path that ends with its letters. A key of `rank_pattern` or `alpha_pattern` is a regular expression on the end of
a path.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer, lora_layers
from eomt.lora.config import Adaptation
from eomt.lora.layers import LoRAAttention

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# containers that PEFT refuses to copy for modules_to_save
LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# names of a pair's tensors under its path, and of DoRA's lengths
ADAPTER_TENSORS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")


def to_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    """Return a layer's adapter as PEFT stores it: slices as stacked A and block-diagonal B, PiSSA as plain LoRA."""
    tensors: dict[str, Tensor] = {kind: layer.get_parameter(name) for kind, name in layer.adapter_tensors().items()}
    if pair := layer.initial_pair():
        # W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]
        initial_a, initial_b = pair
        a, b = torch.cat([layer.lora_a, initial_a]), torch.cat([layer.lora_b, -initial_b], 1)
        tensors |= {"lora_A.weight": a, "lora_B.weight": b}
    if isinstance(layer, LoRAAttention):
        k, width, rank = layer.lora_b.shape
        b = layer.lora_b.new_zeros(3, width, k, rank)
        for position, index in enumerate(layer.slice_indices):
            b[index, :, position] = layer.lora_b[position]
        tensors = {"lora_A.weight": layer.lora_a.flatten(0, 1), "lora_B.weight": b.reshape(3 * width, k * rank)}
    return tensors


def from_tensors(folder: Path, path: str, layer: AdapterLayer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file under the names of the layer's parameters: the inverse of `to_tensors`.

    The plain pair that was written for PiSSA stays a plain pair.

    Args:
        folder: Folder of the file, for messages.
        path: Path of the layer.
        layer: The adapted layer.
        tensors: PEFT's name, such as lora_A.weight -> tensor.

    Raises:
        UserError: If the pair does not fit the slices of the layer.
    """
    if not isinstance(layer, LoRAAttention):
        names = layer.adapter_tensors()
        return {names.get(kind, kind): value for kind, value in tensors.items()}
    a, b = tensors["lora_A.weight"], tensors["lora_B.weight"]
    k, width, rank = layer.lora_b.shape
    if a.shape != (k * rank, layer.in_features) or b.shape != (3 * width, k * rank):
        raise UserError(
            f"{folder}: {path!r} has a pair of shapes {list(a.shape)} and {list(b.shape)}, but the slices here need "
            f"{[k * rank, layer.in_features]} and {[3 * width, k * rank]}; choose the base that it was trained on"
        )
    blocks = b.view(3, width, k, rank)
    kept = torch.stack([blocks[index, :, position] for position, index in enumerate(layer.slice_indices)])
    if kept.count_nonzero() != b.count_nonzero():
        raise UserError(f"{folder}: {path!r} was trained beyond its slices; read it as one adapter of the whole qkv")
    return {"lora_a": a.view(k, rank, -1), "lora_b": kept}


def peft_config(model: nn.Module, done: Adaptation, base: str | None) -> dict[str, Any]:
    """Return the content of adapter_config.json, with names that PEFT matches to exactly the adapted paths.

    Args:
        model: The adapted network, or the model inside it that `done` describes.
        done: What was done to it, with its names.
        base: Name or path of the base model.

    Raises:
        UserError: If PEFT would match the name of a module that is trained in full to another module too.
    """
    layers = lora_layers(model)
    stored = {path: to_tensors(layers[path])["lora_A.weight"].shape[0] for path in done.adapters}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": _target_modules(model, done.adapters),
        "modules_to_save": _modules_to_save(model, done) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        **peft_settings(done, stored),
    }


def peft_settings(done: Adaptation, stored: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return PEFT's fields for ranks, scales and variants.

    Args:
        done: What was done to a network.
        stored: Path -> rank in the file, a multiple of the adapter's for k slices or PiSSA's two pairs; None takes the
            adapters' own.
    """
    config, ranks, alphas = done.config, {}, {}
    for path, spec in done.adapters.items():
        ranks[path] = stored[path] if stored else spec.rank
        factor = ranks[path] // spec.rank
        # alpha grows with the rank, so that the scale stays the same
        alphas[path] = spec.alpha * (factor**0.5 if config.use_rslora else factor)
    return {
        "r": config.rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "rank_pattern": {_exactly(path): rank for path, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {_exactly(path): alpha for path, alpha in alphas.items() if alpha != config.lora_alpha},
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def _exactly(path: str) -> str:
    """Return a key of PEFT's patterns for one path: without the ^, "head" would also match "decoder.head"."""
    return f"^{re.escape(path)}"


def _target_modules(model: nn.Module, adapted: Collection[str]) -> list[str] | str:
    """Return the adapted paths; one regular expression where another path ends with one of them."""
    for path, _ in model.named_modules():
        if path not in adapted and any(path.endswith(f".{target}") for target in adapted):
            return "|".join(re.escape(target) for target in adapted)
    return list(adapted)


def _modules_to_save(model: nn.Module, done: Adaptation) -> list[str]:
    """Return the paths of the modules that are trained in full.

    Raises:
        UserError: If PEFT would match one of them to another module too.
    """
    modules = dict(model.named_modules())
    named = [inner for path in done.trained_in_full for inner in _savable(path, modules[path])]
    for path in named:
        clash = next((target for target in done.adapters if re.match(rf"(.*\.)?{path}($|\.)", target)), None)
        for other, module in modules.items():
            if other in named or not other.endswith(path):
                continue
            # PEFT copies `other` too, and would not find its tensors in the file
            if isinstance(module, LISTS) or module.state_dict():
                clash = clash or other
        if clash:
            raise UserError(
                f"trainable_modules: PEFT would take {path!r} for {clash!r} too, whose name ends alike or contains it; "
                "rename one of the two modules, or train both in full"
            )
    return named


def _savable(path: str, module: nn.Module) -> list[str]:
    """Return the path, or those of the children where PEFT refuses to copy the container."""
    if not isinstance(module, LISTS):
        return [path]
    return [inner for name, child in module.named_children() for inner in _savable(f"{path}.{name}", child)]
