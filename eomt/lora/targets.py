"""From the names in a config to exact module paths; a name that matches nothing is an error."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from eomt.errors import UserError, listed, shortened
from eomt.lora.adapter_layer import AdapterLayer
from eomt.lora.layers import SLICES
from eomt.lora.supported_layers import (
    all_modules,
    is_transposed,
    refusal,
    shared_weights,
    slices_refusal,
    unsuitable_reason,
)
from eomt.utils.patterns import Pattern

# libraries have different names for the same part; each name also matches itself
ALIASES: dict[str, frozenset[str]] = {
    "query": frozenset({"query", "q_proj", "to_q", "q_lin"}),
    "key": frozenset({"key", "k_proj", "to_k", "k_lin"}),
    "value": frozenset({"value", "v_proj", "to_v", "v_lin"}),
    "attention": frozenset(
        {
            *("attention", "attn", "self_attn", "self_attention", "cross_attn", "cross_attention"),
            *("encoder_attn", "crossattention", "SelfAttention", "EncDecAttention"),  # BART, BERT, T5
            *("cross_attn_token_to_image", "cross_attn_image_to_token", "final_attn_token_to_image"),  # SAM2
        }
    ),
    "mlp": frozenset({"mlp", "ffn", "feed_forward", "feedforward", "DenseReluDense"}),
}
# layers whose name alone says too little: regular expressions on the end of a path
PLACES: dict[str, str] = {
    "query": r"(SelfAttention|EncDecAttention)\.q",  # T5
    "key": r"(SelfAttention|EncDecAttention)\.k",
    "value": r"(SelfAttention|EncDecAttention)\.v",
    "mlp": r"\d+\.(fc[12]|(intermediate|output)\.dense)",  # BART's and BERT's lie in the block itself
}
ALL_LINEAR = "all-linear"
FUSED = frozenset({"qkv", "qkv_proj"})


def resolve_targets(
    model: nn.Module,
    targets: Sequence[str],
    exclude: Sequence[str] = (),
    layers: Sequence[int] | str | None = None,
    trained_in_full: Iterable[str] = (),
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the layers that `targets` name.

    Args:
        model: Any module; layers that are adapted already are left out.
        targets: Names as in `LoRAConfig.target_modules`.
        exclude: Names of the same form; what they match is not adapted.
        layers: Indices of blocks, or "last:N", for targets inside numbered blocks.
        trained_in_full: Paths of modules inside which nothing is adapted.

    Returns:
        Path -> slices of a fused qkv (empty: the whole layer), in the model's order; and path -> reason for layers that
        match but stay as they are, since they have no low-rank form or compute more than a plain layer.

    Raises:
        UserError: If a name matches nothing that LoRA can adapt, or an adapter in a layer would be bypassed.
    """
    full = tuple(trained_in_full)
    chosen: dict[str, set[str]] = {}
    skipped: dict[str, str] = {}
    for target in targets:
        found, unsuitable = _match_target(model, target, "target_modules")
        inside = {path: slices for path, slices in found.items() if not is_inside(path, full)}
        if not inside:
            raise UserError(
                f"target_modules: {target!r} names only modules that trainable_modules trains in full; "
                "take it out of one of the two"
            )
        for path, slices in inside.items():
            # the whole layer (no slices) includes each of its slices
            whole = not slices or (path in chosen and not chosen[path])
            chosen[path] = set() if whole else chosen.get(path, set()) | set(slices)
        skipped |= unsuitable
    for name in exclude:
        for path, slices in _match_target(model, name, "exclude_modules")[0].items():
            # a name without slices excludes the whole layer; a slice excluded from the whole leaves the other two
            rest = (chosen.get(path) or set(SLICES)) - set(slices) if slices else set()
            if path in chosen and rest:
                chosen[path] = rest
            else:
                chosen.pop(path, None)
    kept = _in_layers(model, chosen, layers)
    if not kept:
        raise UserError("target_modules: exclude_modules and layers leave nothing to adapt; exclude less")
    modules, shared = all_modules(model), shared_weights(model)
    for path in kept:
        if reason := refusal(modules, path, shared):
            raise UserError(f"target_modules: {path!r} cannot be adapted: {reason}; put it into exclude_modules")
    order = {path: tuple(name for name in SLICES if name in kept[path]) for path in modules if path in kept}
    return order, {path: reason for path, reason in skipped.items() if path not in order}


def resolve_modules(model: nn.Module, names: Sequence[str], field: str = "trainable_modules") -> list[str]:
    """Return the paths of the modules that `names` match, without those inside another one.

    Args:
        model: Any module.
        names: Ends of module paths, each a whole dotted part or more.
        field: Field of the config, for messages.

    Raises:
        UserError: If a name matches no module, or only modules without parameters.
    """
    paths = [path for path, _ in model.named_modules() if path]
    found: list[str] = []
    for name in names:
        matches = [path for path in paths if _ends_with(path, name)]
        if not matches:
            raise UserError(_no_match(field, name, _vocabulary(paths)))
        empty = matches[0]
        # a name such as norm may also be that of an nn.Identity
        matches = [path for path in matches if any(True for _ in model.get_submodule(path).parameters())]
        if not matches:
            raise UserError(f"{field}: {name!r} names modules without parameters ({empty}); leave it out")
        found += [path for path in matches if path not in found]
    return [path for path in found if not is_inside(path, [other for other in found if other != path])]


def is_inside(path: str, containers: Iterable[str]) -> bool:
    """Return whether the module or parameter at `path` is one of `containers` or inside one."""
    return any(path == container or path.startswith(container + ".") for container in containers)


def _match_target(model: nn.Module, target: str, field: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Return the layers that one name matches: path -> slices, and path -> reason for those that cannot be adapted.

    Raises:
        UserError: If none can be adapted, or the name stands for slices of a projection that has none.
    """
    modules = all_modules(model)
    leaves = {path: module for path, module in modules.items() if path and _is_layer(module)}
    found: dict[str, tuple[str, ...]] = {}
    if target == ALL_LINEAR:
        found = {path: () for path, module in leaves.items() if not isinstance(module, nn.Conv2d)}
    elif target.startswith("re:"):
        pattern = Pattern(target.removeprefix("re:"), field)
        found = {path: () for path in leaves if pattern.fits(path)}
    else:
        found = {path: () for path in leaves if _stands_for(target, path)}
        if target in SLICES:
            found |= {path: (target,) for path in leaves if path.rpartition(".")[2] in FUSED and path not in found}
    unsuitable = {path: reason for path in found if (reason := unsuitable_reason(leaves[path]))}
    found = {path: slices for path, slices in found.items() if path not in unsuitable}
    for path, slices in found.items():
        if slices and (reason := slices_refusal(modules, path)):
            raise UserError(f"{field}: {target!r} is no slice of {path!r}: {reason}; name the whole layer: 'qkv'")
    if found:
        return found, unsuitable
    if unsuitable:
        path, reason = next(iter(unsuitable.items()))
        raise UserError(f"{field}: {target!r} matches only {path!r}: {reason}")
    other = [path for path in modules if path and _contains(path, target)]
    if other and not target.startswith("re:"):
        kinds = sorted({type(modules[path]).__name__ for path in other})
        raise UserError(
            f"{field}: {target!r} matches {other[0]!r} ({', '.join(kinds[:3])}); LoRA adapts Linear and Conv2d layers"
        )
    if target == ALL_LINEAR or not leaves:
        missing = "Linear" if leaves else "Linear or Conv2d"
        remedy = f"name others: {listed(leaves, most=4)}" if leaves else "give the network that holds the layers"
        raise UserError(
            f"{field}: {target!r} matches nothing: inside {type(model).__name__} is no {missing} layer that LoRA can "
            f"adapt; {remedy}"
        )
    # a network that numbers its layers has no words for them
    words = _vocabulary(leaves) or set(leaves)
    raise UserError(_no_match(field, target, words | _usable_words(leaves)))


def _is_layer(module: nn.Module) -> bool:
    # Conv1D is looked at, so that it is refused and not passed over
    suits = isinstance(module, nn.Linear | nn.Conv2d) or is_transposed(module)
    return suits and not isinstance(module, AdapterLayer)


def _stands_for(word: str, path: str) -> bool:
    """Return whether a name, or a word such as attention, matches the layer at `path`."""
    if any(_contains(path, name) for name in ALIASES.get(word, frozenset()) | {word}):
        return True
    return word in PLACES and re.search(rf"(^|\.){PLACES[word]}$", path) is not None


def _contains(path: str, name: str) -> bool:
    return f".{name}." in f".{path}."


def _ends_with(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def _vocabulary(paths: Iterable[str]) -> set[str]:
    return {part for path in paths for part in path.split(".") if not part.isdigit()}


def _usable_words(leaves: Mapping[str, nn.Module]) -> set[str]:
    words = {word for word in ALIASES if any(_stands_for(word, path) for path in leaves)}
    if any(not isinstance(layer, nn.Conv2d) for layer in leaves.values()):
        words.add(ALL_LINEAR)
    return words | (set(SLICES) if FUSED & _vocabulary(leaves) else set())


def _no_match(field: str, name: str, vocabulary: set[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(vocabulary), n=4, cutoff=0.5)
    if nearest:
        return f"{field}: {name!r} matches no module; nearest: {listed(nearest)}"
    return f"{field}: {name!r} matches no module; there are: {listed(sorted(vocabulary), most=20)}"


def _in_layers(
    model: nn.Module, chosen: dict[str, set[str]], layers: Sequence[int] | str | None
) -> dict[str, set[str]]:
    """Return `chosen` without the layers of other blocks; layers outside of numbered blocks stay."""
    if layers is None:
        return chosen
    blocks = block_lists(model)
    longest = max(blocks.values(), default=0)
    if not blocks:
        raise UserError("layers: the model has no numbered blocks; set it to null")
    if isinstance(layers, str) and (number := int(layers.removeprefix("last:"))) > longest:
        raise UserError(f"layers: {layers!r}, but there are {longest} blocks, not {number}; at most last:{longest}")
    if not isinstance(layers, str) and (beyond := [i for i in layers if i >= longest]):
        raise UserError(f"layers: {beyond[0]} is not there; the model's blocks are 0 to {longest - 1}")
    kept = {}
    for path, slices in chosen.items():
        container = next((name for name in blocks if path.startswith(name + ".")), None)
        if container is not None:
            index = int(path[len(container) + 1 :].split(".")[0])
            first = blocks[container] - int(layers.removeprefix("last:")) if isinstance(layers, str) else None
            if (first is not None and index < first) or (first is None and index not in layers):
                continue
        kept[path] = slices
    for name, length in blocks.items():
        if any(path.startswith(name + ".") for path in chosen) and not any(
            path.startswith(name + ".") for path in kept
        ):
            raise UserError(
                f"layers: {shortened(str(layers))} leaves nothing of the {length} blocks of {name!r}; "
                "put it into exclude_modules, or choose its blocks too"
            )
    return kept


def block_lists(model: nn.Module) -> dict[str, int]:
    """Return the outermost lists of blocks of one type with linear layers inside: path -> length."""
    found: dict[str, int] = {}
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or len(module) < 2 or is_inside(path, found):
            continue
        children = list(module.children())
        like = len({type(child) for child in children}) == 1 and not _is_layer(children[0])
        if like and any(isinstance(inner, nn.Linear) for inner in children[0].modules()):
            found[path] = len(children)
    return found
