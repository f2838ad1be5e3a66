"""Where two models that answer otherwise differ: the weight of each layer, and the adapters on it, are compared."""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eomt.errors import listed
from eomt.lora.adapter_layer import AdapterLayer, is_adapter_name
from eomt.utils.module_paths import collapse_paths
from eomt.verification.discovery import Adapter, find_adapters, saved_modules
from eomt.verification.findings import Finding

# what PEFT puts before and into names
PREFIX, LAYER, ORIGINAL, SAVED = "base_model.model.", ".base_layer.", ".original_module.", ".modules_to_save."
# the largest difference of values that are the same, as a share, in 32 bits and in 16
SAME, SAME_IN_HALF = 1e-5, 0.02
# the same of whole weights that were merged in 16 bits, where the unit roundoff of bfloat16 is 2^-8
NEAR_IN_HALF = 2**-8
# the largest rest of a merged change beside a multiple of the update, as a share of the update
REST = 0.02
# places of a finding that are named
NAMED = 3
CONFIGURATION = "keep alpha, rank and use_rslora of the training beside the weights"


@dataclass(frozen=True)
class Part:
    """A weight of a model.

    Attributes:
        name: In the model.
        value: Without what adapters add.
        is_trained: Whether it requires a gradient.
        adapters: Those that act on it.
    """

    name: str
    value: Tensor
    is_trained: bool
    adapters: tuple[Adapter, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What differs at one place.

    Attributes:
        where: Path of a layer, or name of a tensor.
        seen: What was seen, as the rest of a sentence that begins with `where`.
        remedy: What would mend it.
    """

    where: str
    seen: str
    remedy: str


def difference_findings(kind: str, model: nn.Module, other: nn.Module, merged: bool, size: str) -> list[Finding]:
    """Return a finding for each way in which a model that answers otherwise differs, with its first layers.

    Args:
        kind: Of the findings.
        model: The model as it was trained.
        other: One that was read back, or that was merged.
        merged: Whether it was merged.
        size: How far answers differ, as a sentence.
    """
    theirs, compared = _parts(other), 0
    # what was trained, and is there under its own name, has a finding of its own
    names = {name for name, _ in other.named_parameters()}
    known = {name for name, value in model.named_parameters() if value.requires_grad and name in names}
    groups: dict[tuple[str, str], list[str]] = {}
    for name, part in _parts(model).items():
        if name not in theirs:
            continue
        compared += 1
        found = _merged(part, theirs[name]) if merged else _loaded(part, theirs[name], known)
        if found is not None:
            groups.setdefault((found.seen, found.remedy), []).append(found.where)
    if not compared:
        seen = f"{size}, and no weight of the one has its name in the other, so that they were not compared"
        return [Finding(kind, "", seen, "see whether both were made alike")]
    findings = []
    for (seen, remedy), places in groups.items():
        alike: dict[str, list[str]] = {}
        for place in places:
            alike.setdefault(re.sub(r"(?<=\.)\d+(?=\.|$)", "#", place), []).append(place)
        texts = [text for group in alike.values() for text in collapse_paths(group)]
        more = ", ".join([*texts[:NAMED], *(["..."] if len(texts) > NAMED else [])])
        more = f" ({len(places)} in all: {more})" if len(places) > 1 else ""
        findings.append(Finding(kind, places[0], f"{seen}{more}; {size}", remedy))
    return findings


def is_same(value: Tensor, other: Tensor) -> bool:
    """Return whether tensors hold the same values, but for rounding: a file may hold fewer bits."""
    if value.shape != other.shape:
        return False
    one, two = value.detach(), other.detach().to(value.device)
    if not one.is_floating_point():
        return torch.equal(one, two)
    share = SAME_IN_HALF if min(one.itemsize, two.itemsize) < 4 else SAME
    return torch.allclose(one.float(), two.float(), rtol=share, atol=1e-7, equal_nan=True)


def _parts(model: nn.Module) -> dict[str, Part]:
    """Return the weights of a model, and the adapters on them, by the names that they have without PEFT."""
    adapters = find_adapters(model)
    acting: dict[str, list[Adapter]] = {}
    for adapter in adapters:
        if not adapter.idle and adapter.base is not None:
            acting.setdefault(adapter.base[0], []).append(adapter)
    of_adapters = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    copies = tuple(f"{path}." for path in saved_modules(model))
    found: dict[str, Part] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        is_idle_copy = SAVED in name and not name.startswith(copies)
        if id(value) in of_adapters or is_adapter_name(name) or ORIGINAL in name or is_idle_copy:
            continue
        before, saved, after = name.partition(SAVED)
        plain = (f"{before}.{after.partition('.')[2]}" if saved else name).replace(LAYER, ".")
        while plain.startswith(PREFIX):
            plain = plain.removeprefix(PREFIX)
        found.setdefault(plain, Part(name, value.detach(), value.requires_grad, tuple(acting.get(name, ()))))
    return found


def _loaded(part: Part, there: Part, known: set[str]) -> Difference | None:
    """Return how a part that was read back differs; None where it does not, or by the values of known tensors alone."""
    own, others = part.adapters, there.adapters
    where = own[0].path if own else part.name
    has = f"has {_listed(others)} in the model that was read back, and {_listed(own)} in the one in memory"
    if len(own) != len(others):
        return Difference(where, has, "adapt the fresh base as the trained one was, and see whether the file holds all")
    for one, two in zip(own, others, strict=True):
        values, there_values = list(one.tensors.values()), list(two.tensors.values())
        same = len(values) == len(there_values) and all(map(is_same, values, there_values))
        if not same and one.name != two.name:
            return Difference(where, has, "save the adapter that is active (selected_adapters), and load that one")
        if not same and not known.issuperset(one.names()):
            seen = "has an adapter of other values in the model that was read back"
            return Difference(where, seen, "save this model's adapter after its last step")
        if abs(one.factor - two.factor) > SAME * abs(one.factor):
            seen = f"multiplies its update with {two.factor:.4g} in the model that was read back, and with "
            return Difference(where, f"{seen}{one.factor:.4g} in the one in memory", CONFIGURATION)
    if part.name in known or is_same(part.value, there.value):
        return None
    seen = f"{'was trained' if part.is_trained else 'is frozen'}, and has other values in the model that was read back"
    remedy = "read the file into the base of the training, or save this too (modules_to_save, trainable_modules)"
    return Difference(part.name, seen, remedy)


def _merged(part: Part, there: Part) -> Difference | None:
    """Return how a part that was merged differs from what it should be; None where it does not, or where nobody knows.

    What was merged is W + t * update: t is 1 as it should be, 0 where nothing was merged, 2 where it was merged twice.
    """
    expected = _with(part, part.adapters)
    if expected is None or _is_near(expected, there.value):
        return None
    if part.value.shape != there.value.shape or not part.adapters:
        seen = "has no adapter, and has other values in the merged model"
        remedy = "merge into the base of the training; of tied weights, adapt all or none (ensure_weight_tying)"
        return Difference(part.name, seen, remedy)
    where, change = part.adapters[0].path, there.value.to(part.value.device).double() - part.value.double()
    for adapter in part.adapters if len(part.adapters) > 1 else ():
        without = _with(part, [other for other in part.adapters if other is not adapter])
        if without is not None and _is_near(without, there.value):
            seen = f"lacks the update of adapter {adapter.name!r} in the merged model"
            return Difference(where, seen, "merge all adapters that are active (adapter_names)")
    update = expected.double() - part.value.double()
    length = float(update.norm())
    share = float((change * update).sum()) / max(length**2, 1e-30)
    if float((change - share * update).norm()) > REST * length:
        return Difference(where, "is changed by something else than its update", "merge into the base of the training")
    if abs(share) < REST:
        seen = "is not merged: its weight is that of the base"
        return Difference(where, seen, "merge every layer (merge_and_unload, merge_lora_weights)")
    seen = f"holds its update {share:.3g} times in the merged model"
    return Difference(where, seen, f"merge once, into the base of the training; {CONFIGURATION}")


def _is_near(value: Tensor, other: Tensor) -> bool:
    """Return whether two sums are the same but for rounding, which single values may be far off by."""
    if value.shape != other.shape:
        return False
    share = NEAR_IN_HALF if min(value.itemsize, other.itemsize) < 4 else SAME
    return float((value.double() - other.to(value.device).double()).norm()) <= share * float(value.double().norm())


def _with(part: Part, adapters: Iterable[Adapter]) -> Tensor | None:
    """Return a weight with what adapters add to it; None where that is not known."""
    if not part.adapters:
        return part.value
    layer: Any = part.adapters[0].layer
    if isinstance(layer, AdapterLayer):
        return copy.deepcopy(layer).plain_layer(True).get_parameter("weight").detach()
    if hasattr(layer, "get_delta_weight") and all(len(adapter.tensors) == 2 for adapter in part.adapters):
        updates = [layer.get_delta_weight(adapter.name).detach() for adapter in adapters]
        return torch.stack([part.value, *(update.to(part.value.dtype) for update in updates)]).sum(0)
    if not hasattr(layer, "get_delta_weight"):
        return None
    # DoRA's is no sum
    merged = copy.deepcopy(layer)
    merged.merge(adapter_names=[adapter.name for adapter in adapters])
    return merged.get_base_layer().weight.detach()


def _listed(adapters: tuple[Adapter, ...]) -> str:
    names = [repr(adapter.name) if adapter.name else "an adapter" for adapter in adapters]
    return listed(names) if names else "no adapter that acts"
