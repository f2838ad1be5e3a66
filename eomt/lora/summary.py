"""Counts and a summary of an adapted network."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from eomt.lora.adapter_layer import count_lora_parameters, is_adapter_name, lora_layers
from eomt.lora.backends import NO_PEFT
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.packed_weight import parameter_counts, quantization_line
from eomt.utils.arguments import checked_arguments


@checked_arguments
def get_lora_stats(model: nn.Module) -> dict[str, Any]:
    """Return counts of a model, adapted or not.

    Returns:
        A dict with total_parameters (adapters included), trainable_parameters, lora_parameters, trainable_percent (0 to
        100) and adapted_modules (paths).

    Raises:
        UserError: If the model is no module.
    """
    total = sum(parameter_counts(model).values())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "lora_parameters": count_lora_parameters(model),
        "trainable_percent": 100 * trainable / total if total else 0.0,
        "adapted_modules": list(lora_layers(model)),
    }


def count_layers(paths: Iterable[str]) -> int:
    """Return in how many layers modules are, by their paths.

    A layer is the innermost numbered part of the model that holds a module, such as a block of a transformer with its
    query, key and value; a module that stands in none is a layer itself.
    """
    layers = set()
    for path in paths:
        parts = path.split(".")
        numbers = [place for place, part in enumerate(parts[:-1], start=1) if part.isdecimal()]
        layers.add(tuple(parts[: numbers[-1]] if numbers else parts))
    return len(layers)


@checked_arguments
def print_lora_summary(model: nn.Module, config: LoRAConfig | None = None) -> None:
    """Print what is adapted and trained, in a few lines.

    Raises:
        UserError: If an argument is not of its type.
    """
    print("\n".join(lora_summary(model, config)))


def lora_summary(model: nn.Module, config: LoRAConfig | None = None) -> list[str]:
    """Return the lines of `print_lora_summary`."""
    done = adaptation(model)
    config = config or (done.config if done else None)
    stats = get_lora_stats(model)
    lines = []
    # adapters that PEFT itself put in have no record here; their parameters show what is trained
    adapters = {name: value for name, value in model.named_parameters() if is_adapter_name(name)}
    if config is None and adapters:
        trained = sum(value.numel() for value in adapters.values() if value.requires_grad)
        layers = count_layers(name.partition(".lora_")[0] for name in adapters)
        lines.append(f"[LoRA] Adapted without a config: {trained:,} trainable params across {layers} layers")
    elif config is None:
        lines.append("[LoRA] None: every parameter is trained (full fine-tuning)")
    elif not config.enabled:
        lines.append("[LoRA] Disabled: no adapters")
    else:
        parameters, layers = stats["lora_parameters"], count_layers(stats["adapted_modules"])
        if done and done.backend == "peft":
            lines.append("[LoRA] Using PEFT library for proper LoRA injection...")
            lines.append(f"[LoRA] PEFT: {parameters:,} trainable params across {layers} layers")
        else:
            lines += [NO_PEFT] if config.backend == "peft" else []
            lines.append(f"[LoRA] Manual injection: {parameters:,} trainable params across {layers} layers")
        extras = [name for name in ("use_rslora", "use_dora") if getattr(config, name)]
        extras += ["pissa"] if config.init_lora_weights == "pissa" else []
        lines.append(
            f"[LoRA] Rank {config.rank}, alpha {config.lora_alpha}, dropout {config.lora_dropout}"
            + "".join(f", {name}" for name in extras)
        )
    if quantized := quantization_line(model):
        lines.append(f"[LoRA] {quantized}")
    if done:
        lines += [f"[LoRA] Left as it is: {path} ({reason})" for path, reason in done.skipped.items()]
        if done.trained_in_full:
            lines.append(f"[LoRA] Trained in full: {', '.join(done.trained_in_full)}")
    lines.append(
        f"[LoRA] Trainable: {stats['trainable_parameters']:,} ({stats['trainable_percent']:.2f}%) | "
        f"Total: {stats['total_parameters']:,}"
    )
    return lines
