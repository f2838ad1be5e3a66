"""The record of an adaptation in a checkpoint: tensor shapes alone do not show slices or scales."""

from typing import Any

from eomt.lora.config import Adaptation


def adaptation_record(done: Adaptation) -> dict[str, Any]:
    """Return an adaptation as plain values, for a checkpoint."""
    return {
        "adapters": {path: [spec.rank, float(spec.alpha), list(spec.slices)] for path, spec in done.adapters.items()},
        "backend": done.backend,
        "use_rslora": done.config.use_rslora,
        "use_dora": done.config.use_dora,
        "init_lora_weights": done.config.init_lora_weights,
        "freeze_base_model": done.config.freeze_base_model,
        "trained_in_full": list(done.trained_in_full),
        "fingerprint": done.fingerprint,
    }


def record_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """Return the first difference between two records, as a sentence; None if they are equal.

    Args:
        ours: Record of the network here.
        theirs: Record in the checkpoint.
    """
    for path in sorted(set(ours["adapters"]) | set(theirs["adapters"])):
        here, there = ours["adapters"].get(path), theirs["adapters"].get(path)
        if here != there:
            return f"{path!r} has [rank, alpha, slices] {there} in the checkpoint, {here} in lora_config"
    for name in ("backend", "use_rslora", "use_dora", "init_lora_weights", "freeze_base_model", "trained_in_full"):
        if ours[name] != theirs[name]:
            return f"{name} is {theirs[name]} in the checkpoint, {ours[name]} in lora_config"
    return None
