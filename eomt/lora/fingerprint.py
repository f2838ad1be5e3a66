"""What tells one base model from another: a few entries of each adapted weight."""

from typing import Any

import torch
from torch import Tensor, nn

ENTRIES = 64


def fingerprint(model: nn.Module, paths: list[str]) -> dict[str, dict[str, Any]]:
    """Per adapted weight its shape and some entries at fixed, evenly spread places: enough to tell bases apart."""
    found = {}
    for path in paths:
        weight = model.get_submodule(path).get_parameter("weight").detach()
        entries: list[float] = []
        if not weight.is_meta:
            flat = weight.flatten()
            places = _spread(flat.numel(), min(ENTRIES, flat.numel()))
            entries = flat[places.to(flat.device)].float().cpu().tolist()
        found[path] = {"shape": list(weight.shape), "entries": entries}
    return found


def _spread(size: int, count: int) -> Tensor:
    """`count` places from the first to the last of `size`."""
    if size <= 2**24:
        return torch.linspace(0, size - 1, count).long()
    # beyond what fp32 counts exactly, it would point past the end; adapters are around with its places below
    return torch.tensor([index * (size - 1) // (count - 1) for index in range(count)])


def same_base(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> str | None:
    """None if two fingerprints are of one base, up to rounding to 16 bits; else what differs."""
    for path in theirs:
        if path not in ours:
            return f"{path!r} is not adapted here"
        if ours[path]["shape"] != theirs[path]["shape"]:
            return f"{path!r} has shape {ours[path]['shape']}, not {theirs[path]['shape']}"
        a, b = torch.tensor(ours[path]["entries"]), torch.tensor(theirs[path]["entries"])
        # bf16 keeps 8 bits: a relative error of 2^-9 an entry; fp16 loses what is below 6e-8
        if a.shape != b.shape or not torch.allclose(a, b, rtol=2**-8, atol=1e-6):
            return f"the weights of {path!r} are others"
    return None
