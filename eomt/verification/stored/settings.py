"""What the settings of a stored adapter say, against the tensors that are there."""

import re
from typing import Any

from torch import Tensor

from eomt.errors import UserError, counted, listed, shortened
from eomt.lora.peft_format import CONFIG_FILE, PREFIX
from eomt.lora.peft_reading import KNOWN, NEUTRAL
from eomt.utils.patterns import Pattern
from eomt.utils.tables import size_text
from eomt.utils.weight_files import PARALLEL
from eomt.verification.findings import Finding
from eomt.verification.stored.adapter import BASE_LAYER, INNER_WRAPPERS, StoredAdapter
from eomt.verification.stored.base import HEADS as TOKEN_HEADS
from eomt.verification.stored.base import TABLES
from eomt.verification.stored.low_rank import Pair, is_finite
from eomt.verification.stored.pairs import GATHER, RESAVE

# PEFT's name of the change of some rows of a table
TOKENS = "trainable_tokens_delta"
# heads that PEFT names for tasks of classes, of which a model has one
HEADS = ("classifier", "score", "qa_outputs")
PUT_TOGETHER = "put both files of one training together"
# PEFT's name of the base's layer inside its own
LAYER = BASE_LAYER.removeprefix(".")
# starts that take something out of the base, or round it
CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def settings_findings(stored: StoredAdapter, pairs: list[Pair]) -> list[Finding]:
    """Return where names, settings and tensors of a file disagree."""
    findings = _name_findings(stored)
    if stored.parts and stored.is_model:
        findings.append(
            Finding(
                "adapters_in_merged",
                "",
                f"a model's file holds {counted(len(stored.parts), 'adapter')} ({next(iter(stored.parts))[0]} first): "
                "loaders of models pass over them, and over weights whose names they changed",
                "merge the adapters before saving (merge_and_unload, or merge_lora_weights)",
            )
        )
    elif stored.parts or stored.config is not None:
        copies = {bare: name for bare, name in stored.base_copies.items() if not is_expected(stored, bare)}
        if copies:
            findings.append(_weight_finding(stored, copies, "of the base beside its adapters"))
    if not pairs and stored.config is not None and not stored.parts:
        findings.append(Finding("no_adapters", "", f"{counted(len(stored.tensors), 'tensor')}, and no adapter", RESAVE))
    if stored.config is not None:
        findings += _target_findings(stored) + _field_findings(stored, pairs)
    findings += _saved_module_findings(stored)
    if stored.parts or stored.config is not None:
        full = stored.full | stored.base_copies
        findings += [
            Finding("empty_tensor", bare, f"has shape {list(stored.tensors[name].shape)}: no values", GATHER)
            for bare, name in full.items()
            if not stored.tensors[name].numel()
        ]
    return findings


def _name_findings(stored: StoredAdapter) -> list[Finding]:
    """Return what wrappers have put before names."""
    findings = []
    is_folder = stored.config is not None
    first = next(iter(stored.tensors), "")
    if any(name.startswith(PREFIX * 2) for name in stored.tensors):
        seen = f"names begin with {PREFIX * 2!r}: a PEFT model was wrapped twice, and loading matches none of them"
        findings.append(Finding("doubled_prefix", "", seen, f"rename them to begin with {PREFIX!r} once"))
    # weights that were merged are loaded by their whole names
    is_merged = not is_folder and not stored.parts
    for wrapper in (PARALLEL, *INNER_WRAPPERS, *((PREFIX, LAYER) if is_merged else ())):
        is_there = stored.wrappers[wrapper] or wrapper == LAYER
        if count := sum(f".{wrapper}" in f".{name}" for name in stored.tensors) if is_there else 0:
            seen = f"{counted(count, 'name')} with {wrapper!r}, of a wrapper: a plain model has no such names"
            remedy = f"save the module inside it, or take {wrapper!r} out of the names"
            # PEFT and transformers pass over what they do not know; other loaders complain, or take it out
            severity = "fault" if is_folder or is_merged else "warning"
            findings.append(Finding("wrapper_prefix", "", seen, remedy, severity))  # type: ignore[arg-type]
    if is_folder:
        if without := [name for name in stored.tensors if not name.startswith(PREFIX)]:
            seen = (
                f"{counted(len(without), 'name')} without {PREFIX!r} at the start ({without[0]}): PEFT passes over them"
            )
            findings.append(Finding("prefix_missing", "", seen, "save with PEFT's save_pretrained"))
        if named := sorted({adapter for _, adapter in stored.parts if adapter}):
            seen = f"names hold that of the adapter ({listed(named, 3)}; {shortened(first, 80)}): PEFT matches none"
            findings.append(Finding("adapter_name_in_keys", "", seen, "save with PEFT's save_pretrained"))
    return findings


def _weight_finding(stored: StoredAdapter, names: dict[str, str], what: str) -> Finding:
    size = sum(stored.tensors[name].nbytes for name in names.values())
    seen = f"{counted(len(names), 'tensor')} ({size_text(size)}; {listed(names, 2)}) {what}"
    return Finding("base_keys_in_file", "", seen, "an adapter's file needs none of them", "warning")


def _target_findings(stored: StoredAdapter) -> list[Finding]:
    """Return targets without tensors, and the other way round."""
    config = stored.config or {}
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    # halves too, which have a finding of their own
    paths = list(dict.fromkeys(path for path, _ in stored.parts))
    if not paths:
        return []
    if not targets and not config.get("target_parameters"):
        seen = f"target_modules of {CONFIG_FILE} is missing or empty: PEFT refuses it, or takes those of its own choice"
        return [Finding("targets_unusable", "", seen, PUT_TOGETHER)]
    # PEFT passes over targets that are trained in full
    covered = [*paths, *(config.get("modules_to_save") or [])]
    try:
        left_out = _matched(excluded, paths)
        named = _in_layers(config, _matched(targets, paths)) - left_out if targets else set(paths) - left_out
        empty = [targets] if isinstance(targets, str) and not _matched(targets, covered) else []
    except UserError as error:
        if broken := [text for text in (targets, excluded) if isinstance(text, str) and not _is_pattern(text)]:
            seen = f"{shortened(repr(broken[0]))} in {CONFIG_FILE} is no regular expression: PEFT cannot load it"
            return [Finding("targets_unusable", "", seen, PUT_TOGETHER)]
        return [Finding("pattern_not_read", "", str(error), "targets were not compared with tensors", "warning")]
    if isinstance(targets, list):
        ends = {end for path in covered for end in _ends(path)}
        empty = [target for target in targets if target not in ends and not _may_be_excluded(excluded, target)]
    unnamed = [path for path in paths if path not in named and not _is_tied_to(config, path, named)]
    # parameters are adapted under the name of their module, and PEFT names tables and heads itself
    if config.get("target_parameters"):
        unnamed, empty = [], []
        seen = f"target_parameters ({listed(config['target_parameters'], 3)}) adapts stacks of weights"
        findings = [Finding("norms_of_stacks", "", seen, "norms here are of whole stacks", "warning")]
    else:
        findings = []
    for path in unnamed:
        left = ", or layers_to_transform leaves it out" if config.get("layers_to_transform") is not None else ""
        seen = f"has a pair, but no target_modules of {CONFIG_FILE} name it{left}: PEFT passes over it"
        findings.append(Finding("tensors_without_target", path, seen, PUT_TOGETHER))
    for target in empty:
        # one of many short names may be meant for other models
        whole = isinstance(targets, str) or "." in target
        findings.append(
            Finding(
                "target_without_tensors",
                target,
                f"is in target_modules of {CONFIG_FILE}, but no pair is of it: loaded, it starts anew without a word",
                "copy the adapter again, or take the name out",
                "fault" if whole else "warning",
            )
        )
    return findings


def _is_tied_to(config: dict[str, Any], path: str, named: set[str]) -> bool:
    """Return whether PEFT adapted a table or head of tokens for the other, with which it is one weight."""
    both = TABLES + TOKEN_HEADS
    is_one = bool(config.get("ensure_weight_tying")) and path.rpartition(".")[2] in both
    return is_one and any(name.rpartition(".")[2] in both for name in named)


def _matched(targets: str | list[str] | None, paths: list[str]) -> set[str]:
    """Return the paths that PEFT matches: a text is a regular expression of whole paths, a list has ends of paths."""
    if targets == "all-linear":
        return set(paths)
    if isinstance(targets, str):
        pattern = Pattern(targets, f"{CONFIG_FILE}: target_modules")
        return {path for path in paths if pattern.fits(path)}
    wanted = set(targets or ())
    return {path for path in paths if not wanted.isdisjoint(_ends(path))}


def _is_pattern(text: str) -> bool:
    """Return whether Python reads a regular expression, which has more than are read here."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _may_be_excluded(excluded: str | list[str] | None, target: str) -> bool:
    """Return whether all that a target names may be excluded: of a short name a regular expression does not tell."""
    if isinstance(excluded, str) and "." not in target:
        return True
    return bool(_matched(excluded, [target]))


def _in_layers(config: dict[str, Any], paths: set[str]) -> set[str]:
    """Return the paths that are in the layers of layers_to_transform, as PEFT counts them: by the first number.

    Without layers_pattern that is the first one behind two other names. Whole paths in target_modules and a regular
    expression in place of a list are not bound to layers.
    """
    wanted, targets = config.get("layers_to_transform"), config.get("target_modules")
    if wanted is None or wanted == [] or not isinstance(targets, list):
        return paths
    numbers = {str(number) for number in (wanted if isinstance(wanted, list) else [wanted])}
    given = config.get("layers_pattern") or []
    names = [Pattern(rf"(.*\.)?({name})", f"{CONFIG_FILE}: layers_pattern") for name in _as_list(given)]

    def number_of(path: str) -> str | None:
        parts = path.split(".")
        for index in range(1, len(parts) - 1):
            before = ".".join(parts[:index])
            fits = any(name.fits(before) for name in names) if names else index > 1
            if parts[index].isdecimal() and fits:
                return str(int(parts[index]))
        return None

    return {path for path in paths if path in targets or number_of(path) in numbers}


def _as_list(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [name for name in values if isinstance(name, str)]


def _ends(path: str) -> list[str]:
    """Return a path and its ends, each from a dot on."""
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _field_findings(stored: StoredAdapter, pairs: list[Pair]) -> list[Finding]:
    """Return fields of adapter_config.json that the tensors do not bear out, or that not every version reads."""
    config = stored.config or {}
    findings = []
    dora = bool(config.get("use_dora"))
    if dora and (bare := [pair.path for pair in pairs if pair.magnitude is None]):
        seen = f"has no lora_magnitude_vector, though use_dora is set ({len(bare)} pairs)"
        findings.append(Finding("dora_mismatch", bare[0], seen, "save the adapter again"))
    if not dora and (long := [pair.path for pair in pairs if pair.magnitude is not None]):
        seen = f"has a lora_magnitude_vector, though use_dora is not set ({len(long)} pairs): PEFT passes over it"
        findings.append(Finding("dora_mismatch", long[0], seen, f"set use_dora in {CONFIG_FILE}"))
    if config.get("bias") not in (None, "none") and not any(name.endswith(".bias") for name in stored.tensors):
        seen = f"bias is {config['bias']!r}, but no bias is in the file"
        # a model may have none where it is adapted
        findings.append(Finding("bias_missing", "", seen, "save the adapter again if the base has one", "warning"))
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        seen = f"init_lora_weights is {start!r}, which changes the base: the pairs alone are not the update"
        remedy = "convert it to plain LoRA (save_pretrained with path_initial_model_for_weight_conversion)"
        findings.append(Finding("init_changes_base", "", seen, remedy, "warning"))
    unknown = [
        name
        for name, value in config.items()
        if name not in NEUTRAL and name not in KNOWN and value not in (None, False, [], {}, "")
    ]
    if unknown:
        written = f" of PEFT {shortened(str(config['peft_version']))}" if config.get("peft_version") else ""
        seen = f"fields{written} that are not known here: {listed(unknown, 4)}; other versions of PEFT may refuse them"
        findings.append(Finding("unknown_field", "", seen, "load it with the PEFT that wrote it", "warning"))
    return findings


def _saved_module_findings(stored: StoredAdapter) -> list[Finding]:
    """Return modules that should be in the file and are not, and tensors in it that nothing asks for."""
    if stored.record is not None:
        wanted, source = list(stored.record["trained_in_full"]), "this package's record"
    else:
        wanted = list((stored.config or {}).get("modules_to_save") or [])
        source = f"modules_to_save of {CONFIG_FILE}"
    modules = {name: _containers(name) for name in stored.full}
    missing = [name for name in wanted if not any(path.endswith(name) for paths in modules.values() for path in paths)]
    # of the heads that PEFT names for a task, a model has one
    if any(name in HEADS for name in set(wanted) - set(missing)):
        missing = [name for name in missing if name not in HEADS]
    findings = [
        Finding(
            "module_to_save_missing",
            name,
            f"is in {source}, but no tensor of it is in the file: it comes back untrained",
            "save again from the training's last checkpoint",
        )
        for name in dict.fromkeys(missing)
    ]
    findings += _missing_tokens(stored)
    for name, paths in modules.items():
        value = stored.tensors[stored.full[name]]
        is_wanted = any(path.endswith(named) for path in paths for named in wanted)
        # PEFT loads all that is in its folder
        if (is_wanted or stored.config is not None) and not is_finite(value):
            remedy = "take a checkpoint from before the loss diverged"
            findings.append(Finding("non_finite", name, "holds NaN or infinity", remedy))
        elif is_wanted and _is_zero_weight(value):
            seen = "is trained in full, and all zeros: it answers the same to every input"
            findings.append(Finding("module_to_save_zero", name, seen, RESAVE))
    # this package also writes buffers; a whole state dict has all that it has
    if stored.config is not None and "eomt_version" not in stored.metadata:
        others = {
            name: stored.full[name]
            for name, paths in modules.items()
            if not any(path.endswith(named) for path in paths for named in wanted) and not is_expected(stored, name)
        }
        if others:
            findings.append(_weight_finding(stored, others, "of no pair and no modules_to_save"))
    return findings


def _is_zero_weight(value: Tensor) -> bool:
    return value.ndim > 1 and value.numel() > 0 and not value.any()


def _missing_tokens(stored: StoredAdapter) -> list[Finding]:
    """Return the tables of which trainable_token_indices names tokens, and no change of tokens is in the file."""
    wanted = (stored.config or {}).get("trainable_token_indices")
    if not wanted:
        return []
    there = [f".{name}" for name in stored.full if TOKENS in name]
    # a list is of the table of tokens, whatever its name
    tables = list(wanted) if isinstance(wanted, dict) else [""]
    return [
        Finding(
            "module_to_save_missing",
            table,
            f"is in trainable_token_indices of {CONFIG_FILE}, but no change of tokens is in the file"
            if table
            else f"trainable_token_indices of {CONFIG_FILE} is set, but no change of tokens is in the file",
            "save again from the training's last checkpoint",
        )
        for table in tables
        if not any(f".{table}." in name if table else name for name in there)
    ]


def _containers(name: str) -> list[str]:
    """Return the paths of the modules that a tensor is in."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def is_expected(stored: StoredAdapter, name: str) -> bool:
    """Return whether PEFT writes a tensor beside pairs and modules_to_save: a bias, or the change of some tokens."""
    config = stored.config or {}
    is_bias = config.get("bias") not in (None, "none") and name.endswith(".bias")
    return is_bias or bool(config.get("trainable_token_indices") and TOKENS in name)
