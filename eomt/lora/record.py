"""The record of an adaptation in a checkpoint: tensor shapes alone do not show slices or scales."""

from typing import Any

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from eomt.lora.config import Adaptation
from eomt.lora.fingerprint import WeightFingerprint


class AdaptationRecord(TypedDict):
    """What `adaptation_record` returns, as it is read again."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    adapters: dict[str, list[Any]]
    backend: str
    use_rslora: bool
    use_dora: bool
    init_lora_weights: str
    freeze_base_model: bool
    trained_in_full: list[str]
    fingerprint: dict[str, WeightFingerprint]


RECORD: TypeAdapter[dict[str, Any]] = TypeAdapter(AdaptationRecord)  # type: ignore[arg-type]


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
        "quantize": done.config.quantize,
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
