"""From the names in a config to exact module paths, strictly: whatever matches nothing is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from torch import nn

from eomt.errors import UserError
from eomt.models.lora import SLICES, LoRALayer

# What the libraries call the same thing. A name always also stands for itself.
ALIASES: dict[str, frozenset[str]] = {
    "query": frozenset({"query", "q_proj", "to_q", "q_lin"}),
    "key": frozenset({"key", "k_proj", "to_k", "k_lin"}),
    "value": frozenset({"value", "v_proj", "to_v", "v_lin"}),
    "attention": frozenset({"attention", "attn", "self_attn", "self_attention", "cross_attn", "cross_attention"}),
    "mlp": frozenset({"mlp", "ffn", "feed_forward", "feedforward"}),
}
ALL_LINEAR = "all-linear"
FUSED = frozenset({"qkv", "qkv_proj"})

# Attention classes that may read `self.qkv.weight` without calling `qkv` (facts measured on timm 1.0.31).
READS_QKV_WEIGHT = frozenset(
    {
        "timm.models.beit.Attention",
        "timm.models.eva.EvaAttention",
        "timm.models.swin_transformer_v2.WindowAttention",
    }
)


def resolve_targets(
    model: nn.Module,
    targets: Sequence[str],
    exclude: Sequence[str] = (),
    layers: Sequence[int] | str | None = None,
    trained_in_full: Iterable[str] = (),
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The layers that `targets` name.

    Args:
        model: any module; what is adapted already is left out.
        targets: names as `LoRAConfig.target_modules` takes them.
        exclude: names likewise, taken out again.
        layers: indices of blocks, or "last:N", for targets inside numbered blocks.
        trained_in_full: module paths whose inside is not adapted.

    Returns:
        Path -> slices of a fused qkv (empty: the whole layer), in the model's order; and path -> reason for layers
        inside a matching container that have no low-rank form and are left as they are.

    Raises:
        UserError: for a name that matches nothing or nothing that LoRA can adapt, or a layer where an adapter
            would be bypassed.
    """
    full = tuple(trained_in_full)
    chosen: dict[str, set[str]] = {}
    skipped: dict[str, str] = {}
    for target in targets:
        found, grouped = _match_target(model, target, "target_modules")
        inside = {path: slices for path, slices in found.items() if not is_inside(path, full)}
        if not inside:
            raise UserError(
                f"target_modules: {target!r} names only modules that trainable_modules trains in full; "
                "take it out of one of the two"
            )
        for path, slices in inside.items():
            # the whole layer (no slices) includes any slice of it
            whole = not slices or (path in chosen and not chosen[path])
            chosen[path] = set() if whole else chosen.get(path, set()) | set(slices)
        skipped |= grouped
    for name in exclude:
        for path in _match_target(model, name, "exclude_modules")[0]:
            chosen.pop(path, None)
    kept = _in_layers(model, chosen, layers)
    if not kept:
        raise UserError("target_modules: exclude_modules and layers leave nothing to adapt")
    modules = dict(model.named_modules())
    for path in kept:
        if reason := bypass_reason(modules, path):
            raise UserError(f"target_modules: {path!r} cannot be adapted: {reason}; put it into exclude_modules")
    order = {path: tuple(name for name in SLICES if name in kept[path]) for path in modules if path in kept}
    return order, {path: reason for path, reason in skipped.items() if path not in order}


def resolve_modules(model: nn.Module, names: Sequence[str], field: str = "trainable_modules") -> list[str]:
    """Paths of the modules named so, outermost only.

    Raises:
        UserError: for a name that matches no module, or only modules without parameters.
    """
    paths = [path for path, _ in model.named_modules() if path]
    found: list[str] = []
    for name in names:
        matches = [path for path in paths if _ends_with(path, name)]
        if not matches:
            raise UserError(_no_match(field, name, _vocabulary(paths)))
        if not any(True for path in matches for _ in model.get_submodule(path).parameters()):
            raise UserError(f"{field}: {name!r} names modules without parameters ({matches[0]})")
        found += [path for path in matches if path not in found]
    return [path for path in found if not is_inside(path, [other for other in found if other != path])]


def is_inside(path: str, containers: Iterable[str]) -> bool:
    """Whether the module or parameter at `path` is one of `containers` or lies below one."""
    return any(path == container or path.startswith(container + ".") for container in containers)


def bypass_reason(modules: dict[str, nn.Module], path: str) -> str | None:
    """Why an adapter at `path` would have no effect, or None if it acts."""
    parts = path.split(".")
    for depth in range(len(parts)):
        parent = modules[".".join(parts[:depth])]
        name = f"{type(parent).__module__}.{type(parent).__qualname__}"
        if isinstance(parent, nn.MultiheadAttention):
            return "torch.nn.MultiheadAttention reads the weights of its projections without calling them"
        if isinstance(parent, nn.TransformerEncoderLayer):
            return "the fast path of torch.nn.TransformerEncoderLayer reads its weights without calling it in eval mode"
        if name in READS_QKV_WEIGHT and parts[depth:] == ["qkv"] and getattr(parent, "q_bias", None) is not None:
            return f"{name} reads qkv.weight without calling qkv"
    return None


def _match_target(model: nn.Module, target: str, field: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Adaptable layers that one name matches, with their slices, and grouped convolutions met on the way."""
    modules = {path: module for path, module in model.named_modules() if path}
    leaves = {path: module for path, module in modules.items() if _is_layer(module)}
    found: dict[str, tuple[str, ...]] = {}
    if target == ALL_LINEAR:
        found = {path: () for path, module in leaves.items() if isinstance(module, nn.Linear)}
    elif target.startswith("re:"):
        try:
            pattern = re.compile(target.removeprefix("re:"))
        except re.error as error:
            raise UserError(f"{field}: {target!r} is no regular expression ({error})") from error
        found = {path: () for path in leaves if pattern.fullmatch(path)}
    else:
        names = ALIASES.get(target, frozenset()) | {target}
        found = {path: () for path in leaves if any(_contains(path, name) for name in names)}
        if target in SLICES:
            for path, module in leaves.items():
                if path.rpartition(".")[2] in FUSED and isinstance(module, nn.Linear) and module.out_features % 3 == 0:
                    found.setdefault(path, (target,))
    grouped = {
        path: f"a convolution with groups={module.groups} has no low-rank form"
        for path in found
        if isinstance(module := leaves[path], nn.Conv2d) and module.groups != 1
    }
    found = {path: slices for path, slices in found.items() if path not in grouped}
    if found:
        return found, grouped
    if grouped:
        path, reason = next(iter(grouped.items()))
        raise UserError(f"{field}: {target!r} matches only {path!r}: {reason}")
    other = [path for path in modules if _contains(path, target)]
    if other and not target.startswith("re:"):
        kinds = sorted({type(modules[path]).__name__ for path in other})
        raise UserError(
            f"{field}: {target!r} matches {other[0]!r} ({', '.join(kinds[:3])}); LoRA adapts Linear and Conv2d layers"
        )
    raise UserError(_no_match(field, target, _vocabulary(leaves) | _usable_words(leaves)))


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d) and not isinstance(module, LoRALayer)


def _contains(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."


def _ends_with(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def _vocabulary(paths: Iterable[str]) -> set[str]:
    return {part for path in paths for part in path.split(".") if not part.isdigit()}


def _usable_words(leaves: Iterable[str]) -> set[str]:
    parts = _vocabulary(leaves)
    words = {word for word, names in ALIASES.items() if names & parts}
    return words | {ALL_LINEAR} | (set(SLICES) if FUSED & parts else set())


def _no_match(field: str, name: str, vocabulary: set[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(vocabulary), n=4, cutoff=0.5)
    if nearest:
        return f"{field}: {name!r} matches no module; nearest: {', '.join(nearest)}"
    return f"{field}: {name!r} matches no module; there are: {', '.join(sorted(vocabulary))}"


def _in_layers(
    model: nn.Module, chosen: dict[str, set[str]], layers: Sequence[int] | str | None
) -> dict[str, set[str]]:
    """What is left of `chosen` inside the given blocks; layers outside numbered blocks stay."""
    if layers is None:
        return chosen
    blocks = _block_lists(model)
    longest = max(blocks.values(), default=0)
    if not blocks:
        raise UserError("layers: the model has no numbered blocks to choose from")
    if not isinstance(layers, str) and (beyond := [i for i in layers if i >= longest]):
        raise UserError(f"layers: {beyond[0]} is not there, the model's blocks are 0 to {longest - 1}")
    kept = {}
    for path, slices in chosen.items():
        container = next((name for name in blocks if path.startswith(name + ".")), None)
        if container is not None:
            index = int(path[len(container) + 1 :].split(".")[0])
            first = blocks[container] - int(layers.removeprefix("last:")) if isinstance(layers, str) else None
            if (first is not None and index < first) or (first is None and index not in layers):
                continue
        kept[path] = slices
    return kept


def _block_lists(model: nn.Module) -> dict[str, int]:
    """Lists of like blocks that hold linear layers, outermost only: path -> length."""
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2 or is_inside(path, found):
            continue
        children = list(module.children())
        like = len({type(child) for child in children}) == 1 and not _is_layer(children[0])
        if like and any(isinstance(inner, nn.Linear) for inner in children[0].modules()):
            found[path] = len(children)
    return found
