"""Adapters in any torch module, found by what they are: a low-rank pair beside a weight."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import AdapterLayer
from eomt.lora.config import adaptation
from eomt.lora.packed_weight import PackedWeight
from eomt.lora.targets import is_inside
from eomt.utils.modes import still_parametrizations

# names that libraries give to a pair: A or the projection down, and B or the projection up
PAIRS = (
    ("lora_a", "lora_b"),
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_down", "lora_up"),
)
# what else an adapter may train: the lengths of DoRA under PEFT's and torchtune's names, the factors of AdaLoRA
ALSO_TRAINED = ("lora_magnitude_vector", "magnitude", "lora_E")
# parts of the names of an unnamed pair
TWINS = {"a": "b", "A": "B", "down": "up"}
# the layers of libraries hold the weight under these names
# PEFT's show the one of the plain layer as their own, too
BASES = ("base_layer", "weight", "linear", "original", "org_module", "conv")


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank pair in a model.

    Attributes:
        path: Path of the adapted layer.
        layer: Module whose calls are those of the adapter.
        tensors: Name of the tensor within the layer -> parameter; A, B, and what else is trained.
        base: Name in the model and value of the weight that it is beside; None where none was found.
        name: Name of the adapter among several; "" where there is one.
        factor: Factor of the update; 1 where it is not known.
        idle: Why it is no part of what is trained ("inactive", "disabled", "merged", or "frozen" as that of a teacher);
            "" if it is one.
    """

    path: str
    layer: nn.Module
    tensors: dict[str, nn.Parameter]
    base: tuple[str, Tensor] | None = None
    name: str = ""
    factor: float = 1.0
    idle: str = ""
    rank: int = field(default=0)

    @property
    def pair(self) -> tuple[nn.Parameter, nn.Parameter]:
        """A and B."""
        first, second, *_ = self.tensors.values()
        return first, second

    @property
    def is_own(self) -> bool:
        """Whether its layer is one of this package, PEFT's in its own backend included."""
        return isinstance(self.layer, AdapterLayer)

    def names(self) -> dict[str, nn.Parameter]:
        """Return its parameters under their names in the model."""
        return {f"{self.path}.{name}" if self.path else name: value for name, value in self.tensors.items()}


def find_adapters(model: nn.Module) -> list[Adapter]:
    """Return the adapters of a model: this package's, PEFT's, torchtune's, loralib's, diffusers', and unnamed pairs."""
    with still_parametrizations(model):
        return _find(model)


def _find(model: nn.Module) -> list[Adapter]:
    found: list[Adapter] = []
    taken: set[int] = set()
    for path, module in model.named_modules():
        adapters = [_own(path, module)] if isinstance(module, AdapterLayer) else list(_named(path, module))
        adapters = [each if each.base else replace(each, base=_parametrized(path, model)) for each in adapters]
        found += adapters
        taken |= {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    for path, module in model.named_modules():
        found += _unnamed(path, module, model, taken)
    return _without_copies(found)


def _without_copies(adapters: list[Adapter]) -> list[Adapter]:
    """Return adapters, of which those of a frozen copy beside what is trained, such as a teacher, are idle.

    A copy is a part all of whose adapters are frozen, and which has the very structure and base of another part, under
    one other name: `teacher` and `student`. Layers that a number tells apart are none.
    """
    frozen = {adapter for adapter in adapters if not adapter.idle and not _is_trained(adapter)}
    shapes = {
        (adapter.path, adapter.name): adapter for adapter in adapters if adapter not in frozen and _is_trained(adapter)
    }
    roots: dict[Adapter, set[str]] = {}
    for adapter in frozen:
        parts = adapter.path.split(".")
        for other in shapes.values():
            names = other.path.split(".")
            differing = [n for n, pair in enumerate(zip(parts, names, strict=False)) if pair[0] != pair[1]]
            if len(names) == len(parts) and len(differing) == 1 and _are_copies(adapter, other):
                index = differing[0]
                if not (parts[index].isdigit() or names[index].isdigit()):
                    roots.setdefault(adapter, set()).add(".".join(parts[: index + 1]))
    whole = {
        root
        for root in {root for found in roots.values() for root in found}
        if all(root in roots.get(each, ()) for each in adapters if is_inside(each.path, [root]))
    }
    return [replace(each, idle="frozen") if roots.get(each, set()) & whole else each for each in adapters]


def _is_trained(adapter: Adapter) -> bool:
    return any(tensor.requires_grad for tensor in adapter.tensors.values())


def _are_copies(one: Adapter, other: Adapter) -> bool:
    """Return whether two adapters are alike, beside weights of the same values."""
    if one.base is None or other.base is None or one.name != other.name:
        return False
    alike = [(name, value.shape) for name, value in one.tensors.items()] == [
        (name, value.shape) for name, value in other.tensors.items()
    ]
    first, second = one.base[1], other.base[1]
    return alike and first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


def label_of(adapter: Adapter, name: str) -> str:
    """Return what a tensor of an adapter is called in a finding: lora_B, or lora_B.second of one among several."""
    label = name.partition(".")[0]
    return label if adapter.name in ("", "default") else f"{label}.{adapter.name}"


def saved_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return path -> module that trains in full in PEFT's `modules_to_save`, for adapters that are active."""
    found = {}
    for path, module in model.named_modules():
        copies = getattr(module, "modules_to_save", None)
        if isinstance(copies, nn.ModuleDict) and hasattr(module, "original_module"):
            for name in _active(module, list(copies)):
                if name in copies:
                    found[f"{path}.modules_to_save.{name}"] = copies[name]
    return found


def trained_in_full(model: nn.Module, adapters: list[Adapter]) -> list[str]:
    """Return the paths of the modules beside the adapters that are trained in full."""
    done = adaptation(model)
    if done is not None:
        return list(done.trained_in_full)
    paths = list(saved_modules(model))
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    if not (adapters or frozen):
        # full fine-tuning: there is nothing beside which a part would be trained
        return []
    known = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    for path, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad and id(p) not in known]
        if own and path and not is_inside(path, paths):
            paths.append(path)
    return paths


def _own(path: str, layer: AdapterLayer) -> Adapter:
    tensors = {name: layer.get_parameter(name) for name in layer.adapter_tensors().values()}
    held = "packed" if isinstance(layer, PackedWeight) else layer.base_weight_name
    weight = layer.get_parameter(held)
    name = f"{path}.{held}" if path else held
    return Adapter(path, layer, tensors, (name, weight), factor=layer.factor, rank=len(layer.lora_a))


def _named(path: str, module: nn.Module) -> Iterator[Adapter]:
    """Yield the adapters of a module that holds a pair under a known name."""
    for first, second in PAIRS:
        a, b = getattr(module, first, None), getattr(module, second, None)
        if isinstance(a, nn.ModuleDict | nn.ParameterDict) and isinstance(b, nn.ModuleDict | nn.ParameterDict):
            for name in a:
                if name in b:
                    yield _of_several(path, module, (first, second), name)
        else:
            tensors = {**_tensor_of(first, a), **_tensor_of(second, b)}
            if len(tensors) == 2:
                for also in ALSO_TRAINED:
                    tensors |= _tensor_of(also, getattr(module, also, None))
                yield _single(path, module, tensors)


def _of_several(path: str, module: Any, pair: tuple[str, str], name: str) -> Adapter:
    """Return one of PEFT's adapters, which a layer holds under their names."""
    tensors: dict[str, nn.Parameter] = {}
    for part in (*pair, *ALSO_TRAINED):
        holder = getattr(module, part, None)
        if isinstance(holder, nn.ModuleDict | nn.ParameterDict) and name in holder:
            tensors |= _tensor_of(f"{part}.{name}", holder[name])
    idle = ""
    if name not in _active(module, [name]):
        idle = "inactive"
    elif getattr(module, "disable_adapters", False):
        idle = "disabled"
    elif name in (getattr(module, "merged_adapters", None) or []):
        idle = "merged"
    scaling = getattr(module, "scaling", {})
    factor = float(scaling.get(name, 1.0)) if isinstance(scaling, dict) else 1.0
    return Adapter(path, module, tensors, _base(path, module), name, factor, idle, _rank(tensors))


def _single(path: str, module: Any, tensors: dict[str, nn.Parameter]) -> Adapter:
    idle = "merged" if getattr(module, "merged", False) is True else ""
    idle = "disabled" if getattr(module, "disabled", False) is True else idle
    factors = [getattr(module, key, None) for key in ("scaling", "scale")]
    factor = next((float(value) for value in factors if isinstance(value, int | float)), 1.0)
    return Adapter(path, module, tensors, _base(path, module), factor=factor, idle=idle, rank=_rank(tensors))


def _tensor_of(name: str, part: Any) -> dict[str, nn.Parameter]:
    """Return the parameter that a part of a layer is, or the one weight that it holds, under its name."""
    if isinstance(part, nn.Parameter):
        return {name: part}
    weight = getattr(part, "weight", None) if isinstance(part, nn.Module) else None
    return {f"{name}.weight": weight} if isinstance(weight, nn.Parameter) else {}


def _rank(tensors: dict[str, nn.Parameter]) -> int:
    a, b, *_ = tensors.values()
    shared = set(a.shape) & set(b.shape)
    return min(shared) if shared else min(*a.shape, *b.shape)


def _active(module: Any, default: list[str]) -> list[str]:
    """Return the names of the active adapters of a layer."""
    active = getattr(module, "active_adapters", None)
    if active is None:
        active = getattr(module, "active_adapter", default)
    return [active] if isinstance(active, str) else list(active)


def _parametrized(path: str, model: nn.Module) -> tuple[str, Tensor] | None:
    """Return the weight that a module is a parametrization of; None where it is none."""
    if not re.search(r"(^|\.)parametrizations\.[^.]+\.\d+$", path):
        return None
    held = path.rpartition(".")[0]
    weight = getattr(model.get_submodule(held), "original", None)
    return (f"{held}.original", weight) if isinstance(weight, nn.Parameter) else None


def _base(path: str, module: nn.Module) -> tuple[str, Tensor] | None:
    """Return the weight beside an adapter, in the layer itself or in the plain one that it holds."""
    for name in BASES:
        held, prefix = getattr(module, name, None), f"{path}.{name}" if path else name
        # PEFT stacks layers where a base is adapted twice
        while isinstance(held, nn.Module) and isinstance(inner := getattr(held, "base_layer", None), nn.Module):
            held, prefix = inner, f"{prefix}.base_layer"
        if isinstance(held, nn.Parameter):
            return prefix, held
        if isinstance(held, nn.Module) and isinstance(weight := getattr(held, "weight", None), Tensor):
            return f"{prefix}.weight", weight
    return None


def _unnamed(path: str, module: nn.Module, model: nn.Module, taken: set[int]) -> Iterator[Adapter]:
    """Yield pairs of two small linear maps whose product has the shape of a weight beside them, or of some of its rows.

    The weight is one of the same module, or of the one above where the module holds nothing but the pair. Beside one
    that is trained, too, a pair is known by names as of A and B, and by a zero that it starts at or by the word lora.
    """
    inner = _matrices(module)
    around = {f"{path}.{name}" if path else name: value for name, value in inner.items()}
    layer_path, layer, within = path, module, ""
    plain = (nn.Linear, nn.Dropout, nn.Identity)
    if path and all(isinstance(child, plain) for child in module.children()) and len(around) == 2:
        layer_path, _, last = path.rpartition(".")
        layer, within = model.get_submodule(layer_path), f"{last}."
        prefix = f"{layer_path}." if layer_path else ""
        around = {f"{prefix}{name}": value for name, value in _matrices(layer).items()}
    says_lora = "lora" in f"{path}.{type(layer).__name__}.{type(module).__name__}".lower()
    for base_name, base in around.items():
        small = {n: v for n, v in inner.items() if v.requires_grad and id(v) not in taken and v is not base}
        for first, second in _pairs(small):
            a, b = small[first], small[second]
            # as two layers, A (r, in) and B (out, r), or as factors of x A B, (in, r) and (r, out)
            layers = b.shape[1] == a.shape[0] < min(base.shape) and a.shape[1] == base.shape[1]
            factors = a.shape[1] == b.shape[0] < min(base.shape) and a.shape[0] == base.shape[1]
            rows = (b.shape[0] if layers else b.shape[1]) if layers or factors else 0
            twins = _twin(first) == second
            # queries and values of one weight have pairs of their own
            if not rows or not (rows == base.shape[0] or (twins and rows < base.shape[0])):
                continue
            if base.requires_grad and not (twins and (says_lora or not bool(a.any()) or not bool(b.any()))):
                continue
            if {id(a), id(b)} & taken or not (twins or len(small) == 2):
                continue
            tensors = {f"{within}{first}": a, f"{within}{second}": b}
            yield Adapter(layer_path, layer, tensors, (base_name, base), rank=_rank(tensors))
            taken |= {id(a), id(b)}


def _pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return what may be A and B: those that names tell, and else two in either order."""
    held = list(names)
    told = [(name, twin) for name in held if (twin := _twin(name)) in held and twin != name]
    return told or ([(held[0], held[1]), (held[1], held[0])] if len(held) == 2 else [])


def _twin(name: str) -> str:
    """Return the name of the B to that of an A: linear_b_q of linear_a_q; the same where it is none of an A."""
    parts = re.split(r"([_.])", name)
    return "".join(TWINS.get(part, part) for part in parts)


def _matrices(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the matrices that a module holds itself or in linear layers, by name."""
    found = {name: value for name, value in module.named_parameters(recurse=False) if value.dim() == 2}
    for name, child in module.named_children():
        if isinstance(child, nn.Linear) and isinstance(child.weight, nn.Parameter):
            found[f"{name}.weight"] = child.weight
    return found
