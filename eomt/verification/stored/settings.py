"""What the settings of a stored adapter say, against the tensors that are there."""

from eomt.errors import UserError, counted, listed, shortened
from eomt.lora.peft_format import CONFIG_FILE, PREFIX
from eomt.lora.peft_reading import KNOWN, NEUTRAL
from eomt.utils.patterns import Pattern
from eomt.utils.tables import size_text
from eomt.utils.weight_files import PARALLEL
from eomt.verification.findings import Finding
from eomt.verification.stored.adapter import BASE_LAYER, INNER_WRAPPERS, StoredAdapter
from eomt.verification.stored.low_rank import Pair, is_finite
from eomt.verification.stored.pairs import GATHER, RESAVE

# heads that PEFT names for tasks of classes, of which a model has one
HEADS = ("classifier", "score", "qa_outputs")
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
    elif stored.base_copies and (stored.parts or stored.config is not None):
        findings.append(_weight_finding(stored, stored.base_copies, "of the base beside its adapters"))
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
    # PEFT passes over targets that are trained in full
    covered = [*paths, *(config.get("modules_to_save") or [])]
    try:
        left_out = _matched(excluded, paths)
        named = _matched(targets, paths) - left_out if targets else set(paths) - left_out
        empty = [targets] if isinstance(targets, str) and not _matched(targets, covered) else []
    except UserError as error:
        return [Finding("pattern_not_read", "", str(error), "targets were not compared with tensors", "warning")]
    if isinstance(targets, list):
        ends = {end for path in covered for end in _ends(path)}
        empty = [target for target in targets if target not in ends]
    unnamed = [path for path in paths if path not in named]
    # parameters are adapted under the name of their module, and PEFT names tables and heads itself
    if config.get("target_parameters"):
        unnamed, empty = [], []
        seen = f"target_parameters ({listed(config['target_parameters'], 3)}) adapts stacks of weights"
        findings = [Finding("norms_of_stacks", "", seen, "norms here are of whole stacks", "warning")]
    else:
        findings = []
    for path in unnamed:
        seen = f"has a pair, but no target_modules of {CONFIG_FILE} name it: PEFT passes over it"
        findings.append(Finding("tensors_without_target", path, seen, "put both files of one training together"))
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


def _matched(targets: str | list[str] | None, paths: list[str]) -> set[str]:
    """Return the paths that PEFT matches: a text is a regular expression of whole paths, a list has ends of paths."""
    if targets == "all-linear":
        return set(paths)
    if isinstance(targets, str):
        pattern = Pattern(targets, f"{CONFIG_FILE}: target_modules")
        return {path for path in paths if pattern.fits(path)}
    wanted = set(targets or ())
    return {path for path in paths if not wanted.isdisjoint(_ends(path))}


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
    for name, paths in modules.items():
        if any(path.endswith(named) for path in paths for named in wanted) and not is_finite(
            stored.tensors[stored.full[name]]
        ):
            remedy = "take a checkpoint from before the loss diverged"
            findings.append(Finding("non_finite", name, "holds NaN or infinity", remedy))
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


def _containers(name: str) -> list[str]:
    """Return the paths of the modules that a tensor is in."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def is_expected(stored: StoredAdapter, name: str) -> bool:
    """Return whether PEFT writes a tensor beside pairs and modules_to_save: a bias, or the change of some tokens."""
    config = stored.config or {}
    is_bias = config.get("bias") not in (None, "none") and name.endswith(".bias")
    return is_bias or bool(config.get("trainable_token_indices") and "token" in name)
