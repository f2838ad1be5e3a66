"""The fingerprint of a base model: a few entries of each adapted weight, enough to tell one base from another."""

from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from typing_extensions import TypedDict

from eomt.utils.reading import Count, Number

ENTRIES = 64


class WeightFingerprint(TypedDict):
    """What is kept of a weight."""

    shape: list[Count]
    entries: list[Number]


FINGERPRINT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, WeightFingerprint])


def fingerprint(model: nn.Module, paths: list[str]) -> dict[str, dict[str, Any]]:
    """Return the shape of each adapted weight and up to 64 of its entries, at fixed, evenly spaced places.

    Args:
        model: The base, before it is adapted.
        paths: Paths of the layers that will be adapted.
    """
    return {path: weight_fingerprint(model.get_submodule(path).get_parameter("weight").detach()) for path in paths}


def weight_fingerprint(weight: Tensor) -> dict[str, Any]:
    """Return the shape of a weight and some of its entries; none of one on the meta device."""
    entries: list[float] = []
    if not weight.is_meta:
        flat = weight.flatten()
        places = _spread(flat.numel(), min(ENTRIES, flat.numel()))
        entries = flat[places.to(flat.device)].float().cpu().tolist()
    return {"shape": list(weight.shape), "entries": entries}


def same_base(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> str | None:
    """Return the first difference between two fingerprints; None if they agree up to rounding to 16 bits.

    Args:
        ours: Fingerprint of the base here.
        theirs: Fingerprint that was saved with an adapter.
    """
    for path in theirs:
        if path not in ours:
            return f"{path!r} is not adapted here"
        if ours[path]["shape"] != theirs[path]["shape"]:
            return f"{path!r} has shape {ours[path]['shape']}, not {theirs[path]['shape']}"
        a, b = torch.tensor(ours[path]["entries"]), torch.tensor(theirs[path]["entries"])
        # bf16 keeps 8 bits: a relative error of 2^-9 an entry; fp16 loses what is below 6e-8
        if a.shape != b.shape or not torch.allclose(a, b, rtol=2**-8, atol=1e-6):
            return f"the weights of {path!r} differ"
    return None


def _spread(size: int, count: int) -> Tensor:
    """Return `count` evenly spaced indices from 0 to size - 1."""
    if size <= 2**24:
        return torch.linspace(0, size - 1, count).long()
    # linspace is inexact above 2^24 and points past the end; below, saved adapters already use its places
    return torch.tensor([index * (size - 1) // (count - 1) for index in range(count)])
