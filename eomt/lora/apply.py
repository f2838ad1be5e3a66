"""Adapt a network as a LoRAConfig says: find the layers, put adapters in, set what is trainable."""

from typing import Any

import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora.adaptable import as_adaptable
from eomt.lora.adapter_layer import lora_layers, note_calls, require_gradients
from eomt.lora.backends import available_backend, inject_native, inject_peft
from eomt.lora.config import Adaptation, AdapterSpec, LoRAConfig, adaptation, record
from eomt.lora.fingerprint import fingerprint
from eomt.lora.quantize import originals_of, quantize_base
from eomt.lora.supported_layers import all_modules, refusal, refuse_wrapped, shared_weights, unsuitable_reason
from eomt.lora.targets import resolve_modules, resolve_targets
from eomt.lora.trainable import drifting_statistics, expected_trainable, tied_outside
from eomt.utils.arguments import checked_arguments
from eomt.utils.patterns import Pattern


@checked_arguments
def apply_lora(model: nn.Module, config: LoRAConfig | None) -> nn.Module:
    """Adapt `model` in place as `config` says, set what is trainable, and return it.

    Args:
        model: Any torch module.
        config: The settings; None leaves the model as it is.

    Raises:
        UserError: If an argument is not of its type, the model is adapted already, a name or value cannot work, or a
            rank is larger than a layer's weight allows.
    """
    if config is None:
        return model
    if adaptation(model) is not None or lora_layers(model):
        raise UserError(
            "lora_config: this network is adapted already; give lora_config once, to the task or to the network"
        )
    refuse_wrapped(model, "lora_config")
    new = [name for name in as_adaptable(model).new_modules if name not in config.trainable_modules]
    trained_in_full = resolve_modules(model, [*config.trainable_modules, *new])
    if config.freeze_base_model and (tied := tied_outside(model, trained_in_full)):
        raise UserError(
            f"trainable_modules: {tied[0]!r} shares its values with {tied[1]!r}, which would be trained with it; "
            "name that module too, or neither"
        )
    if config.freeze_base_model and (drifting := drifting_statistics(model, trained_in_full)):
        raise UserError(
            f"freeze_base_model: {drifting!r} would be frozen, but its running statistics follow the training images "
            "and change the base; add it to trainable_modules, or set track_running_stats to false"
        )
    adapters: dict[str, AdapterSpec] = {}
    skipped: dict[str, str] = {}
    if config.enabled:
        slices, skipped = resolve_targets(
            model, config.target_modules, config.exclude_modules, config.layers, trained_in_full
        )
        ranks = _by_pattern(slices, config.rank_pattern, "rank_pattern")
        alphas = _by_pattern(slices, config.alpha_pattern, "alpha_pattern")
        adapters = {
            path: AdapterSpec(ranks.get(path, config.rank), alphas.get(path, config.lora_alpha), chosen)
            for path, chosen in slices.items()
        }
    for path, spec in adapters.items():
        layer = model.get_submodule(path)
        limit = _largest_rank(layer, spec)
        if spec.rank > limit:
            raise UserError(
                f"rank: {spec.rank} is above what {path!r} can hold ({limit}); lower it, "
                f"or give this layer its own with rank_pattern: {{{path}: {limit}}}"
            )
    return inject(model, Adaptation(config, adapters, trained_in_full, skipped, {}))


def apply_lora_to_vit(model: nn.Module, config: LoRAConfig | None) -> nn.Module:
    """Adapt a ViT or an EoMT; this is the guide's name for `apply_lora`."""
    return apply_lora(model, config)


def inject(model: nn.Module, plan: Adaptation) -> nn.Module:
    """Put adapters into `model` in place, take its fingerprint, set what is trainable, and return it.

    Args:
        model: A plain model.
        plan: What to do, with exact paths; its fingerprint and backend are filled in.

    Raises:
        UserError: If a layer cannot be adapted, or the model was made in torch.inference_mode.
    """
    config = plan.config
    # within that mode, a network that only answers can be adapted
    if not torch.is_inference_mode_enabled():
        require_gradients(dict(model.named_parameters()), "model")
    modules, shared = all_modules(model), shared_weights(model)
    for path in plan.adapters:
        if reason := unsuitable_reason(modules[path]) or refusal(modules, path, shared):
            raise UserError(f"{path!r} cannot be adapted: {reason}")
    plan.fingerprint = fingerprint(model, list(plan.adapters))
    originals = originals_of(model, plan)
    plan.backend = available_backend(config) if plan.adapters else "native"
    (inject_peft if plan.backend == "peft" else inject_native)(model, plan)
    record(model, plan)
    note_calls(model)
    expected = expected_trainable(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in expected)
    if config.quantize is not None:
        quantize_base(model, config.quantize, originals)
    return model


def _by_pattern(slices: dict[str, tuple[str, ...]], pattern: dict[str, Any], field_name: str) -> dict[str, Any]:
    """Return path -> value for the paths that a pattern names; a later name overrides an earlier one."""
    values: dict[str, Any] = {}
    for name, value in pattern.items():
        if name.startswith("re:"):
            pattern_of_paths = Pattern(name.removeprefix("re:"), field_name)
            matches = [path for path in slices if pattern_of_paths.fits(path)]
        else:
            matches = [path for path in slices if f".{name}." in f".{path}."]
        if not matches:
            raise UserError(
                f"{field_name}: {name!r} matches none of the {len(slices)} adapted modules; name one, such as "
                f"{next(iter(slices), None)!r}"
            )
        values |= dict.fromkeys(matches, value)
    return values


def _largest_rank(layer: nn.Module, spec: AdapterSpec) -> int:
    """Return min(in, out) of the updated matrix: a higher rank would only add parameters."""
    shape = layer.get_parameter("weight").flatten(1).shape
    out_features = shape[0] // 3 if spec.slices else shape[0]
    return min(out_features, shape[1])
