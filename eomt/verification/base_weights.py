"""Whether what is frozen was ever read from a file."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import is_adapter_name, lora_layers
from eomt.lora.config import adaptation
from eomt.lora.packed_weight import packed_layers
from eomt.utils.loaded import loaded_in
from eomt.verification.findings import Finding

# transformers notes on each parameter that it read from a file that it is initialized
READ_BY_TRANSFORMERS = "_is_hf_initialized"
# layers of which a fresh network has ones and zeros, and a trained one hardly ever
NORMS = 2


def random_base_faults(model: nn.Module) -> list[Finding]:
    """Return a fault if a frozen tensor is random: a low-rank change of a random matrix is no adaptation."""
    parameters = dict(model.named_parameters())
    random = [name for name in random_names(model) if not parameters[name].requires_grad]
    return [_never_loaded(random)] if random else []


def random_names(model: nn.Module) -> list[str]:
    """Return the names of all parameters but adapters' that were never read from a file."""
    loaded = loaded_names(model)
    return [name for name, _ in model.named_parameters() if name not in loaded and not is_adapter_name(name)]


def loaded_names(model: nn.Module) -> set[str]:
    """Return the names in `model` of all tensors that were read from files, here or in modules inside."""
    found = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name for name in loaded_in(module)}
    for path, layer in lora_layers(model).items():
        # a layer of PEFT holds the plain one, whose tensors were recorded under the names before
        holder = layer.base_weight_name.removesuffix("weight")
        found |= {f"{path}.{holder}{part}" for part in ("weight", "bias") if f"{path}.{part}" in found}
    # what was read was packed
    found |= {f"{path}.packed" for path in packed_layers(model) if f"{path}.weight" in found}
    return found


def base_findings(model: nn.Module) -> list[Finding]:
    """Return a finding if frozen weights were never read from a file, as far as that can be known.

    This package's loaders record what they read, and a model that it adapted or filled is held to that. Transformers
    marks what it read: where it read a part, the rest is random, and where it read nothing and its model was made from
    a configuration, values that are those of a fresh start are. Of any other model such values are a warning.
    """
    if adaptation(model) is not None or loaded_names(model):
        return random_base_faults(model)
    found = []
    of_adapters = _of_adapters(model)
    frozen = {
        name: value
        for name, value in model.named_parameters()
        if not value.requires_grad
        and value.is_floating_point()
        and not is_adapter_name(name)
        and id(value) not in of_adapters
        # a copy of it is trained in its place, or is that of an adapter that is not active
        and ".original_module." not in name
        and ".modules_to_save." not in name
    }
    of_transformers = _from_configuration(model)
    for path, from_configuration in of_transformers:
        prefix = f"{path}." if path else ""
        inside = {name: value for name, value in frozen.items() if name.startswith(prefix)}
        unread = [name for name, value in inside.items() if not getattr(value, READ_BY_TRANSFORMERS, False)]
        resized = _resized(model.get_submodule(path), inside, unread)
        if resized:
            seen = "is frozen, and was resized: the rows of new tokens were never loaded"
            found.append(Finding("base_looks_random", resized[0], seen, "train the new rows", "warning"))
        unread = [name for name in unread if name not in resized]
        partly = len(unread) + len(resized) < len(inside)
        if unread and (partly or (from_configuration and looks_fresh(model.get_submodule(path)))):
            found.append(_never_loaded(unread))
    remedy = "load pre-trained weights, or set allow_random_base to true"
    if not of_transformers and frozen and looks_fresh(model):
        seen = "frozen weights have the values of a fresh initialization: was the base loaded?"
        found.append(Finding("base_looks_random", "", seen, remedy, "warning"))
    elif not found and (fresh := [path for path, is_fresh in _frozen_norms(model).items() if is_fresh]):
        seen = f"is frozen with the ones and zeros of a fresh initialization ({len(fresh)} such norms): was it loaded?"
        found.append(Finding("base_looks_random", fresh[0], seen, remedy, "warning"))
    return found


def _of_adapters(model: nn.Module) -> set[int]:
    """Return the identities of what PEFT's layers name as their own, such as AdaLoRA's ranknum, which no file fills."""
    found: set[int] = set()
    for module in model.modules():
        for name in (*getattr(module, "adapter_layer_names", ()), *getattr(module, "other_param_names", ())):
            held = getattr(module, name, None)
            if isinstance(held, nn.ModuleDict | nn.ParameterDict):
                found |= {id(parameter) for parameter in held.parameters()}
    return found


def _resized(model: Any, frozen: Mapping[str, nn.Parameter], unread: list[str]) -> list[str]:
    """Return the names of tensors that resize_token_embeddings made anew, from rows that were read.

    It makes a new output layer. Only the configuration that was read tells one from a layer that no file held.

    Args:
        model: A model of transformers.
        frozen: Frozen tensors by name.
        unread: Names of those that are not marked as read.
    """
    if len(unread) == len(frozen):
        return []
    try:
        output = model.get_output_embeddings()
        of_output = {id(parameter) for parameter in output.parameters()} if output is not None else set()
        names = [name for name in unread if id(frozen[name]) in of_output]
        read = type(model.config).from_pretrained(model.name_or_path, local_files_only=True) if names else model.config
        is_same = read.get_text_config().vocab_size == model.config.get_text_config().vocab_size
    except (AttributeError, NotImplementedError, OSError, ValueError):
        return []
    return [] if is_same else names


def _never_loaded(names: list[str]) -> Finding:
    return Finding(
        "base_never_loaded",
        names[0],
        f"is frozen but was never loaded ({len(names)} such tensors)",
        "load it (`pretrained`), train it (trainable_modules) or, for a smoke test, set the audit's allow_random_base "
        "to true",
    )


def _from_configuration(model: nn.Module) -> list[tuple[str, bool]]:
    """Return path of each outermost model of transformers, and whether it was made from a configuration alone."""
    found: list[tuple[str, bool]] = []
    for path, module in model.named_modules():
        inside = any(path == above or path.startswith(f"{above}.") or not above for above, _ in found)
        if not inside and _is_of_transformers(module):
            found.append((path, not getattr(module, "name_or_path", "")))
    return found


def _is_of_transformers(module: Any) -> bool:
    return any(kind.__module__ == "transformers.modeling_utils" for kind in type(module).__mro__)


def looks_fresh(model: nn.Module) -> bool:
    """Return whether frozen values are those of a fresh start: norms of ones and zeros, or the default's uniform."""
    norms = _frozen_norms(model)
    if len(norms) >= NORMS:
        return all(norms.values())
    linear = [weight for weight in _linear_weights(model) if not weight.requires_grad and weight.numel() >= 64]
    return bool(linear) and all(_is_default(weight) for weight in linear)


def _frozen_norms(model: nn.Module) -> dict[str, bool]:
    """Return path of each frozen normalization layer -> whether its weight and its bias are constant."""
    found = {}
    for path, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if "norm" in type(module).__name__.lower() and isinstance(weight, Tensor) and not weight.requires_grad:
            found[path] = _is_constant(weight) and (not isinstance(bias, Tensor) or _is_constant(bias))
    return found


def _is_constant(values: Tensor) -> bool:
    """Return whether all values are one: 1 in most norms, 0 in those that add 1 or scale a branch."""
    return values.numel() > 0 and bool((values == values.flatten()[0]).all())


def _linear_weights(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and isinstance(module.weight, Tensor):
            yield module.weight


def _is_default(weight: Tensor) -> bool:
    """Return whether a matrix is uniform within the bound that torch's layers start with, 1 / sqrt(inputs)."""
    if not weight.is_floating_point():
        return False
    values = weight.detach().float().flatten()
    bound = 1 / math.sqrt(weight[0].numel())
    uniform = bound / math.sqrt(3)
    spread = float(torch.std(values))
    within = float(values.abs().max()) <= bound * 1.01
    return within and abs(spread / uniform - 1) < max(0.05, 4 / math.sqrt(values.numel()))
