"""What should be trainable in a model, and what is."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from eomt.errors import UserError, listed
from eomt.lora.adapter_layer import is_adapter_name
from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside
from eomt.lora.trainable import expected_trainable
from eomt.verification.discovery import Adapter, saved_modules
from eomt.verification.findings import Finding

# the word in `expect` that stands for all adapters
ADAPTERS = "adapters"
# in PEFT's modules_to_save, a copy is trained in place of the original
ORIGINAL = ".original_module."
# PEFT adds these for classification, whether a model has them or not
HEADS = {"classifier", "score"}


def trainable_findings(model: nn.Module, adapters: list[Adapter], expect: Iterable[str] | None) -> list[Finding]:
    """Return a finding for each tensor that is frozen and should not be, or is trained and should not be.

    Args:
        model: Any torch module.
        adapters: Its adapters.
        expect: What should be trainable: names of parameters or modules, any dotted part of such a name, patterns with
            `*`, or "adapters"; None infers it: adapters, PEFT's modules_to_save, and what is unfrozen.
    """
    parameters = dict(model.named_parameters())
    if not any(parameter.requires_grad for parameter in parameters.values()) and expect is None:
        if adaptation(model) is not None:
            return _of_config(model)
        remedy = (
            "load the adapter with is_trainable=True, or set requires_grad"
            if adapters
            else "put adapters in, or unfreeze the parts that should be trained"
        )
        return [Finding("nothing_trainable", "", f"nothing is trainable ({len(adapters)} adapters)", remedy)]
    if expect is not None:
        return _of_names(model, adapters, list(expect))
    if adaptation(model) is not None:
        return _of_config(model)
    bases = _trained_bases(adapters)
    unsaved = _unsaved(model, adapters, {finding.where for finding in bases})
    return [*_frozen_adapters(adapters), *bases, *_frozen_heads(model), *unmatched_names(model), *unsaved]


def _of_config(model: nn.Module) -> list[Finding]:
    expected = expected_trainable(model)
    remedy = "was requires_grad changed after the network was adapted?"
    found = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in expected:
            found.append(Finding("not_meant_to_train", name, "is trained, not by lora_config", remedy))
        elif name in expected and not parameter.requires_grad:
            found.append(Finding("frozen", name, "is frozen, though lora_config trains it", remedy))
    return found


def _of_names(model: nn.Module, adapters: list[Adapter], expect: list[str]) -> list[Finding]:
    if not all(isinstance(entry, str) and entry for entry in expect):
        raise UserError(
            f"expect: {listed(expect)}; give names of parameters or modules, patterns with *, or 'adapters'"
        )
    parameters = dict(model.named_parameters())
    of_adapters = {name for adapter in adapters if not adapter.idle for name in adapter.names()}
    expected: set[str] = set()
    found = []
    for entry in expect:
        named = {name for name in parameters if _fits(entry, name) and ORIGINAL not in name}
        matches = of_adapters if entry == ADAPTERS else named
        if not matches:
            seen = "holds no adapter" if entry == ADAPTERS else f"has no parameter {entry!r}"
            remedy = "check the target names" if entry == ADAPTERS else "see the names in model.named_parameters()"
            found.append(Finding("matches_nothing", "", f"the model {seen}, which should be trained", remedy))
        expected |= matches
    for name, parameter in parameters.items():
        if parameter.requires_grad and name not in expected:
            found.append(Finding("not_meant_to_train", name, "is trainable, and not expected to be", "freeze it"))
        elif name in expected and not parameter.requires_grad:
            found.append(Finding("frozen", name, "is frozen, and expected to be trained", "set requires_grad to True"))
    return found


def left_out(adapters: list[Adapter], model: nn.Module, expect: Iterable[str] | None) -> list[Adapter]:
    """Return adapters, of which frozen ones that `expect` names in no way are idle."""
    entries = list(expect) if expect is not None else [ADAPTERS]
    if ADAPTERS in entries or not all(isinstance(entry, str) for entry in entries):
        return adapters
    named = {name for name, _ in model.named_parameters() if any(_fits(entry, name) for entry in entries)}
    return [
        adapter
        if adapter.idle or any(name in named or value.requires_grad for name, value in adapter.names().items())
        else replace(adapter, idle="frozen")
        for adapter in adapters
    ]


def _fits(entry: str, name: str) -> bool:
    """Return whether a name is meant: all of it, a run of its dotted parts, or by a pattern with `*`."""
    return f".{entry}." in f".{name}." or ("*" in entry and fnmatchcase(name, entry))


def _frozen_adapters(adapters: list[Adapter]) -> list[Finding]:
    found = []
    for adapter in adapters:
        frozen = [name for name, value in adapter.names().items() if not value.requires_grad]
        trained = [name for name, value in adapter.names().items() if value.requires_grad]
        if adapter.idle and trained:
            remedy = {
                "inactive": "make it active (set_adapter), or freeze it",
                "disabled": "enable the adapters again",
                "merged": "unmerge it before training, or merge at the end",
            }[adapter.idle]
            seen = f"is an adapter that is {adapter.idle}: it is trainable, and no part of the answer"
            found.append(Finding(adapter.idle, _label(adapter), seen, remedy))
        elif frozen and not adapter.idle:
            remedy = "set requires_grad again after whatever froze it; PEFT opens an adapter with is_trainable=True"
            found.append(Finding("frozen", frozen[0], "is an adapter's, and frozen", remedy))
    return found


def _label(adapter: Adapter) -> str:
    return f"{adapter.path}.{adapter.name}" if adapter.name not in ("", "default") else adapter.path


def _trained_bases(adapters: list[Adapter]) -> list[Finding]:
    """Return a finding for each weight that trains beside its own adapter: the saved adapter would not fit the base."""
    found = {}
    for adapter in adapters:
        if adapter.base is not None and adapter.base[1].requires_grad and not adapter.idle:
            name = adapter.base[0]
            seen = "is the weight beside an adapter, and trainable"
            found[name] = Finding("not_meant_to_train", name, seen, "freeze it: a saved adapter holds A and B alone")
    return list(found.values())


def _frozen_heads(model: nn.Module) -> list[Finding]:
    """Return a finding for each module of PEFT's modules_to_save that is frozen, or whose original is not."""
    found = []
    for path, module in saved_modules(model).items():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            remedy = "set requires_grad again; PEFT opens an adapter with is_trainable=True"
            found.append(Finding("frozen", path, "is in modules_to_save, and frozen", remedy))
        original = model.get_submodule(path.rpartition(".modules_to_save.")[0] + ".original_module")
        if any(parameter.requires_grad for parameter in original.parameters()):
            where = path.rpartition(".modules_to_save.")[0] + ".original_module"
            seen = "is trainable, though its copy in modules_to_save takes its place"
            found.append(Finding("not_meant_to_train", where, seen, "freeze it"))
    return found


def _unsaved(model: nn.Module, adapters: list[Adapter], known: set[str]) -> list[Finding]:
    """Return a warning for each module that is trained in a model of PEFT's LoRA, which writes adapters alone."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping) or not all(getattr(c, "peft_type", None) == "LORA" for c in configs.values()):
        return []
    # modules whose weights PEFT holds itself: copies, and rows of an embedding
    written = [*saved_modules(model), *(path for path, _ in model.named_modules() if "trainable_tokens" in path)]
    with_bias = any(getattr(config, "bias", "none") != "none" for config in configs.values())
    of_adapters = {id(tensor) for adapter in adapters for tensor in adapter.tensors.values()}
    paths: dict[str, None] = {}
    for name, parameter in model.named_parameters():
        is_written = (
            id(parameter) in of_adapters
            or is_inside(name, written)
            or is_adapter_name(name)
            or ORIGINAL in name
            or (with_bias and name.endswith("bias"))
        )
        if parameter.requires_grad and not is_written and name not in known:
            path = name.rpartition(".")[0]
            # a parameter of its own beside modules, such as a gate or a token, is named itself
            paths[name if any(model.get_submodule(path).children()) else path] = None
    remedy = "name it in modules_to_save, or save it yourself"
    seen = "is trained, and not in modules_to_save: PEFT does not write it with the adapter"
    return [Finding("not_saved", path, seen, remedy, "warning") for path in paths]


def unmatched_names(model: nn.Module) -> list[Finding]:
    """Return a warning for each name in PEFT's configuration that no module has: PEFT passes over it in silence."""
    found = []
    configs = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, Mapping) else []:
        paths = [path for path, _ in model.named_modules()]
        for field in ("target_modules", "modules_to_save"):
            names: Any = getattr(config, field, None)
            if not isinstance(names, list | set | tuple):
                continue
            for name in sorted(names):
                added = field == "modules_to_save" and name in HEADS and set(names) >= HEADS
                if not any(f".{name}." in f".{path}." for path in paths) and not added:
                    seen = f"no module is named {name!r}, which {field} asks for"
                    remedy = "see the names in model.named_modules()"
                    found.append(Finding("matches_nothing", "", seen, remedy, "warning"))
    return found
