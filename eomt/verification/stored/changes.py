"""What a file changes in its base: by its adapters, by tensors in full, and by merging."""

import re

import torch
from torch import Tensor

from eomt.errors import counted, listed
from eomt.lora.fingerprint import same_base, weight_fingerprint
from eomt.verification.findings import Finding
from eomt.verification.stored.adapter import StoredAdapter
from eomt.verification.stored.base import HEADS, TABLES, Base, fits
from eomt.verification.stored.low_rank import Pair, is_finite, rank_of_change
from eomt.verification.stored.pairs import GATHER
from eomt.verification.stored.settings import is_expected

# weights of a merged file whose change is taken apart
EXAMINED = 4
# rows and columns of the largest of them
MOST_ENTRIES = 2**27
NAMED = 3
# a trained update is a small part of its weight
LARGE = 100
# tables and heads that a tied base holds once
SHARED = tuple(f"{name}.weight" for name in HEADS + TABLES)
# what files of older versions of transformers hold beside weights; GPT-2's masks are "attn.bias"
OLD_BUFFERS = (".position_ids", ".masked_bias", ".inv_freq")
OTHER_LAYOUT = "load_adapter and --ckpt_path compare this package's adapters with a base in any layout that it reads"


def base_findings(
    stored: StoredAdapter, pairs: list[Pair], base: Base, found: dict[str, str]
) -> tuple[list[Finding], list[str]]:
    """Return what does not fit a base, or would be lost when the file is loaded onto it, and lines on what changed.

    Args:
        stored: The file.
        pairs: Its pairs.
        base: The base.
        found: Names in the file, without wrappers -> names in the base; see `Base.find`.
    """
    findings = _fit_findings(stored, pairs, base, found)
    findings += _left_out(stored, pairs, base, found)
    theirs = {path: entry for path, entry in stored.fingerprint.items() if f"{path}.weight" in found}
    ours = {path: weight_fingerprint(base.tensors[found[f"{path}.weight"]]) for path in theirs}
    if difference := same_base(ours, theirs):
        named = f" ({stored.metadata['base']})" if stored.metadata.get("base") else ""
        seen = f"was trained on another base{named}: {difference}"
        findings.append(Finding("other_base", "", seen, "load that base"))
    more, notes = _full_findings(stored, base, found)
    findings += more
    is_tied_in_peft = bool((stored.config or {}).get("ensure_weight_tying"))
    if base.is_tied and base.has_head and not is_tied_in_peft:
        names = [pair.path for pair in pairs] + [name.rpartition(".")[0] for name in stored.full]
        for name in dict.fromkeys(names):
            if name.rpartition(".")[2] in HEADS + TABLES:
                seen = "is one weight with another in the base (tie_word_embeddings), and was adapted alone"
                remedy = "set ensure_weight_tying in PEFT, or untie both before training: merging changes the other too"
                findings.append(Finding("tied_weight", name, seen, remedy, "warning"))
    statistics = [name for name in base.tensors if name.endswith((".running_mean", ".running_var"))]
    if statistics and stored.parts and not any("running_mean" in name for name in stored.tensors):
        seen = f"{len(statistics)} running statistics of the base ({statistics[0]} first) are not in the file"
        remedy = "keep normalization in evaluation mode while training, or save the buffers too"
        findings.append(Finding("buffers_not_saved", "", seen, remedy, "warning"))
    return findings, notes


def _fit_findings(stored: StoredAdapter, pairs: list[Pair], base: Base, found: dict[str, str]) -> list[Finding]:
    if (stored.config or {}).get("target_parameters"):
        return []
    missing = [pair for pair in pairs if f"{pair.path}.weight" not in found]
    remedy = "give the base that it was trained on, in the layout (timm, Hugging Face) of the model that was adapted"
    if missing and len(missing) == len(pairs):
        some = next(iter(base.tensors))
        seen = f"none of {len(pairs)} adapted layers ({missing[0].path}, ...) is in the base ({some}, ...)"
        if stored.fingerprint:
            # this package reads bases in several layouts, and names what it makes of them alike
            return [Finding("other_layout", "", f"{seen}: nothing was compared", OTHER_LAYOUT, "warning")]
        return [Finding("does_not_fit_base", "", seen, remedy)]
    findings = [
        Finding("does_not_fit_base", pair.path, "is adapted, but the base has no such weight", remedy)
        for pair in missing
    ]
    for pair in pairs:
        name = found.get(f"{pair.path}.weight")
        if name is not None and not fits(pair, base.tensors[name]):
            seen = f"is adapted as {_text(pair.weight_shape)}, but the base has {list(base.tensors[name].shape)}"
            findings.append(Finding("does_not_fit_base", pair.path, seen, remedy))
    return findings


def _left_out(stored: StoredAdapter, pairs: list[Pair], base: Base, found: dict[str, str]) -> list[Finding]:
    """Return the weights of a base that short targets name, and of which no pair is there."""
    config = stored.config or {}
    targets = config.get("target_modules")
    if not isinstance(targets, list) or any(config.get(name) for name in ("exclude_modules", "layers_to_transform")):
        return []
    adapted = {found[name] for pair in pairs if (name := f"{pair.path}.weight") in found}
    wanted = tuple(config.get("modules_to_save") or ())
    # names of which some layer has a pair: the others may be meant for other models
    used = {target for target in targets if any(f".{pair.path}".endswith(f".{target}") for pair in pairs)}
    findings = []
    for name, weight in base.tensors.items():
        path = name.removesuffix(".weight")
        ends = {".".join(path.split(".")[start:]) for start in range(path.count(".") + 1)}
        if path != name and weight.ndim > 1 and name not in adapted and ends & used and not _in(name, wanted):
            seen = "is in the base and of a name in target_modules, but has no pair: loaded, it starts anew"
            remedy = "copy the adapter again, if this layer was trained"
            findings.append(Finding("target_without_tensors", path, seen, remedy, "warning"))
    return findings


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(str(size) if size else '?' for size in shape)}]"


def _full_findings(stored: StoredAdapter, base: Base, found: dict[str, str]) -> tuple[list[Finding], list[str]]:
    """Return what became of tensors that are in the file in full: findings, and a line for each that changed."""
    findings: list[Finding] = []
    notes: list[str] = []
    wanted = tuple((stored.record or {}).get("trained_in_full") or (stored.config or {}).get("modules_to_save") or ())
    for names, is_copy in ((stored.full, False), (stored.base_copies, True)):
        changed = {}
        for bare, name in names.items():
            value, there = stored.tensors[name], found.get(bare)
            if there is None:
                continue
            other = base.tensors[there]
            if not value.numel():
                # a finding of its own
                continue
            if value.shape != other.shape:
                seen = f"has shape {list(value.shape)}, the base {list(other.shape)}"
                remedy = "resize the base before loading (resize_token_embeddings, num_labels)"
                findings.append(Finding("other_size", bare, seen, remedy, "warning"))
            elif (difference := largest_difference(value, other)) > 0:
                changed[bare] = difference
                if not is_copy:
                    notes.append(f"{bare}: in full, differs from the base by at most {difference:.3g}")
            elif not is_copy and _in(bare, wanted):
                seen = "is trained in full, and is what it was in the base"
                remedy = "find out whether the loss reaches it and the optimizer has it; audit the model itself"
                findings.append(Finding("module_to_save_unchanged", bare, seen, remedy, "warning"))
        plain = {
            name: value
            for name, value in changed.items()
            if not (is_expected(stored, name) or (_in(name, wanted) and not is_copy))
        }
        # buffers that this package writes are meant to differ
        is_ours = stored.record is not None or "eomt_version" in stored.metadata
        if plain and (is_copy or not is_ours):
            is_folder = stored.config is not None
            most = max(plain, key=plain.__getitem__)
            lost = (
                "PEFT loads that over the base's own"
                if is_folder and not is_copy
                else "an adapter alone would lose that"
            )
            seen = (
                f"{counted(len(plain), 'tensor')} of the base changed too ({listed(plain, NAMED)}; at most "
                f"{plain[most]:.3g}): {lost}"
            )
            remedy = "freeze the base in training, or name these modules in modules_to_save"
            findings.append(Finding("base_changed", "", seen, remedy, "fault" if is_folder else "warning"))
    stray = [
        name for name in stored.full if name not in found and not _in(name, wanted) and not is_expected(stored, name)
    ]
    if stray and stored.config is not None and "eomt_version" not in stored.metadata:
        seen = f"{counted(len(stray), 'tensor')} ({listed(stray, NAMED)}) neither of the base nor of modules_to_save"
        remedy = "name their modules in modules_to_save: else loading drops them"
        findings.append(Finding("lost_on_loading", "", seen, remedy, "warning"))
    if new := [name for name in stored.full if name not in found]:
        notes.append(f"in full and not in the base: {listed(new, NAMED)}")
    return findings, notes


def _in(name: str, modules: tuple[str, ...]) -> bool:
    """Return whether a tensor is in one of the modules, whose names are ends of paths."""
    return any(f".{name}".find(f".{module}.") >= 0 for module in modules)


def largest_difference(value: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors of one shape, in the coarser of their types."""
    if not value.is_floating_point() or not other.is_floating_point():
        return float((value.double() - other.double()).abs().max()) if value.numel() else 0.0
    coarse = min((value, other), key=lambda tensor: tensor.element_size()).dtype
    difference = (value.to(coarse).float() - other.to(coarse).float()).abs()
    return float(difference.nan_to_num(nan=torch.inf).max()) if value.numel() else 0.0


def rounding_findings(relative: dict[str, float], base: Base, found: dict[str, str]) -> list[Finding]:
    """Return a finding where changes are so small that merging in the base's own type would round them away.

    Args:
        relative: Path of a layer -> ||W' - W|| / ||W||.
        base: The base.
        found: Names in the file -> names in the base.
    """
    small = []
    for path, change in relative.items():
        dtype = base.tensors[found[f"{path}.weight"]].dtype
        if dtype.is_floating_point and 0 < change < torch.finfo(dtype).eps / 2:
            small.append((path, change, dtype))
    if not small:
        return []
    path, change, dtype = small[0]
    seen = f"changes its weight by {change:.1e} of its size, less than {dtype} keeps ({len(small)} layers)"
    remedy = "merge in a wider type and keep the file in it, or train at a larger rate"
    return [Finding("rounding_swallows", path, seen, remedy, "warning")]


def size_findings(relative: dict[str, float]) -> list[Finding]:
    """Return a finding where changes are many times the weights that they are of: a training that diverged.

    Args:
        relative: Path of a layer -> ||W' - W|| / ||W||.
    """
    large = {path: change for path, change in relative.items() if change > LARGE}
    if not large:
        return []
    path = max(large, key=large.__getitem__)
    seen = (
        f"changes its weight by {large[path]:,.3g} times its size ({counted(len(large), 'layer')} by more than {LARGE})"
    )
    remedy = "take a checkpoint from before the training diverged, or look at alpha and the learning rate"
    return [Finding("update_exceeds_weight", path, seen, remedy, "warning")]


def copied_findings(pairs: list[Pair], base: Base | None, found: dict[str, str]) -> list[Finding]:
    """Return a finding where layers hold one pair, as a loop leaves it that saved the last under each name.

    Layers that are one module under several names do so rightly: a base that has the same weight there tells, and
    without a base it is a warning.

    Args:
        pairs: Those of the file.
        base: The base; None without one.
        found: Names in the file -> names in the base.
    """
    alike: dict[object, list[Pair]] = {}
    for pair in pairs:
        if pair.is_finite() and not pair.is_zero(pair.starts_at_zero):
            a, b = pair.blocks[0]
            alike.setdefault((a.shape, b.shape, float(a.double().sum()), float(b.double().sum())), []).append(pair)
    findings = []
    for first, *others in alike.values():
        same = [
            pair.path for pair in others if _is_copy(first, pair) and not _is_one(first.path, pair.path, base, found)
        ]
        if same:
            seen = f"holds the same pair as {listed(same, NAMED)}: layers that are trained never do"
            remedy = "save each layer's own pair; layers that are one module may share it"
            findings.append(Finding("copied_pair", first.path, seen, remedy, "warning" if base is None else "fault"))
    return findings


def _is_copy(one: Pair, two: Pair) -> bool:
    return one.path != two.path and all(
        torch.equal(a, other_a) and torch.equal(b, other_b)
        for (a, b), (other_a, other_b) in zip(one.blocks, two.blocks, strict=False)
    )


def _is_one(one: str, two: str, base: Base | None, found: dict[str, str]) -> bool:
    """Return whether a base has the same weight for two layers."""
    weights = [base.tensors.get(found.get(f"{path}.weight", "")) for path in (one, two)] if base is not None else []
    first, second = weights or (None, None)
    return first is not None and second is not None and first.shape == second.shape and torch.equal(first, second)


def _missing(base: Base, there: set[str]) -> list[str]:
    """Return the weights of a base that a merged file lacks.

    Of a tied base it may lack those that are one weight with another, and the buffers of older versions of
    transformers, which models compute anew.

    Args:
        base: The base.
        there: Names in the base of what the file has.
    """
    missing = {name: value for name, value in base.tensors.items() if name not in there}
    missing = {name: value for name, value in missing.items() if not _is_old_buffer(name, value)}
    held = [name for name in sorted(there) if name.endswith(SHARED)]
    if base.is_tied and held:
        rows = base.tensors[held[0]].shape[:1]
        # also under other names, as biases of heads; norms of ones equal each other too, but have no row for each token
        shared = [base.tensors[name] for name in sorted(there) if base.tensors[name].shape[:1] == rows]
        missing = {
            name: value
            for name, value in missing.items()
            if not name.endswith(SHARED)
            and not any(value.shape == other.shape and torch.equal(value, other) for other in shared)
        }
    return sorted(missing)


def _left_as_they_were(changes: dict[str, float], found: dict[str, str]) -> list[Finding]:
    """Return a finding for each kind of layer of which some changed and others did not: what a loop left out.

    Args:
        changes: Names of weights that changed.
        found: Names in the file -> names in the base.
    """
    kinds: dict[str, list[str]] = {}
    for name in found:
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "#", name), []).append(name)
    findings = []
    for names in kinds.values():
        left = [name for name in names if name not in changes]
        if left and len(left) < len(names):
            moved = next(name for name in names if name in changes)
            others = f" ({len(left)} of {len(names)} such layers are: {listed(left, NAMED)})" if len(left) > 1 else ""
            seen = f"is what it was in the base, though {moved} changed{others}"
            remedy = "merge every layer that has an adapter; nothing, if only some had one (layers_to_transform)"
            findings.append(Finding("partly_merged", left[0], seen, remedy, "warning"))
    return findings


def _is_old_buffer(name: str, value: Tensor) -> bool:
    return name.endswith(OLD_BUFFERS) or (name.endswith(".attn.bias") and value.ndim == 4)


def merged_findings(stored: StoredAdapter, base: Base, found: dict[str, str]) -> tuple[list[Finding], list[str]]:
    """Return the faults of a file without adapters against its base, and lines that say what changed.

    Args:
        stored: The file.
        base: The base.
        found: Names in the file -> names in the base.
    """
    findings, changes = [], {}
    # names with "base_layer" too, where only the adapters were taken out
    names = stored.base_copies | stored.full
    for bare, there in found.items():
        value, other = stored.tensors[names[bare]], base.tensors[there]
        if other.numel() and not value.numel():
            findings.append(Finding("empty_tensor", bare, f"has shape {list(value.shape)}: no values", GATHER))
        elif value.shape != other.shape:
            seen = f"has shape {list(value.shape)}, the base {list(other.shape)}"
            findings.append(Finding("other_size", bare, seen, "compare it with its own base", "warning"))
        elif largest_difference(value, other) > 0:
            size = float(other.double().norm())
            changes[bare] = float((value.double() - other.double()).norm()) / (size or 1.0)
    if broken := [bare for bare, name in names.items() if not is_finite(stored.tensors[name])]:
        seen = f"holds NaN or infinity ({counted(len(broken), 'tensor')})"
        findings.append(Finding("non_finite", broken[0], seen, "merge again from a sound adapter"))
    findings += _left_as_they_were(changes, found)
    missing = _missing(base, set(found.values()))
    if not found:
        seen = f"no tensor ({next(iter(names))}, ...) is in the base ({next(iter(base.tensors))}, ...)"
        findings.append(Finding("does_not_fit_base", "", seen, "give the base that it was made from"))
    elif not changes:
        seen = f"all {len(found)} tensors are those of the base: nothing was merged"
        findings.append(Finding("nothing_changed", "", seen, "find out whether the adapter was trained and merged"))
    if found and missing:
        seen = f"{counted(len(missing), 'tensor')} of the base missing ({listed(missing, NAMED)})"
        findings.append(Finding("tensors_missing", "", seen, "save the whole model"))
    lines = [f"{len(changes)} of {len(found)} tensors differ from the base."] if found else []
    wide = [bare for bare in changes if stored.tensors[names[bare]].ndim == 2]
    wide = [bare for bare in wide if stored.tensors[names[bare]].numel() <= MOST_ENTRIES]
    for bare in wide[:: max(1, -(-len(wide) // EXAMINED))]:
        change = stored.tensors[names[bare]].float() - base.tensors[found[bare]].float()
        if not is_finite(change):
            continue
        rank, share = rank_of_change(change)
        text = f"of rank {rank}" if rank is not None else "of full rank, or rounded"
        lines.append(f"{bare}: changed by {changes[bare]:.2%} of its size, {text} ({share:.1%} of the change)")
    return findings, lines
