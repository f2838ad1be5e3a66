"""Adapters on disk: PEFT's format, read back strictly.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Slices of a fused qkv are written as one
block-diagonal pair, which PEFT reads as an ordinary adapter of k times the rank. What PEFT has no place for travels in
the metadata of the safetensors file: the slices, the fingerprint of the base, its name, and the package's version.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt import __version__
from eomt.errors import UserError
from eomt.lora.adaptable import as_adaptable
from eomt.lora.adapter_layer import adapter_parameters, lora_layers, set_module
from eomt.lora.apply import inject
from eomt.lora.config import Adaptation, adaptation, record
from eomt.lora.fingerprint import same_base
from eomt.lora.peft_format import (
    ADAPTER_TENSORS,
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    check_targets,
    from_tensors,
    json_field,
    peft_config,
    read_folder,
    read_plan,
    slices_in,
    to_tensors,
)
from eomt.lora.supported_layers import peft_reason, refuse_compiled
from eomt.lora.targets import is_inside
from eomt.lora.trainable import check_trainable, expected_trainable
from eomt.utils.files import write_folder
from eomt.utils.loaded import mark_loaded


def is_adapter_folder(path: str | Path) -> bool:
    """Whether `path` is a folder with an adapter in PEFT's format."""
    return (Path(path) / CONFIG_FILE).is_file()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changed in an adapted or plain model: trained parameters and all persistent buffers."""
    trained = expected_trainable(model)
    # a shared parameter has several names here: it is saved under the first, if at all
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name in trained or name not in parameters}


def save_adapter(model: nn.Module, folder: str | Path, base: str | None = None) -> Path:
    """Writes the adapters, the modules trained in full and the persistent buffers of `model`.

    Args:
        model: adapted by `apply_lora` or `load_adapter`.
        folder: made whole or not at all; one that exists is replaced if it is an adapter folder.
        base: name or path of the base model, for the reader.

    Raises:
        UserError: if the model is not adapted, if more was trained than adapters and named modules, if PEFT would take
            a named module for another, or if the folder exists and is something else.
    """
    refuse_compiled(model, "save_adapter")
    done = adaptation(model)
    if done is None or not done.adapters:
        holds = "its adapters were not made by apply_lora" if lora_layers(model) else "the model holds no adapters"
        raise UserError(f"save_adapter: {holds}")
    check_trainable(model)
    for path, layer in lora_layers(model).items():
        if reason := peft_reason(layer):
            raise UserError(f"no adapter folder: {reason}, which {path!r} has; the .ckpt and the merged model hold it")
    adapters = adapter_parameters(model)
    more = [
        name
        for name in sorted(expected_trainable(model))
        if name not in adapters and not is_inside(name, done.trained_in_full)
    ]
    if more:
        raise UserError(
            f"no adapter folder: {len(more)} tensors beside adapters and trainable_modules are trained "
            f"({more[0]}, ...); set freeze_base_model: true to get one"
        )
    root = wrapped_model(model)
    adapted = [
        inner for inner in as_adaptable(model).inner_models if any(is_inside(path, [inner]) for path in done.adapters)
    ]
    others = [] if root else adapted

    def write(beside: Path) -> None:
        _write_adapter(model, done, root, beside, base)
        for inner in others:
            (beside / inner).mkdir()
            _write_adapter(model, done, inner, beside / inner, base)

    return write_folder(Path(folder), write, _holds_only_adapters)


def _holds_only_adapters(folder: Path) -> bool:
    """Whether replacing `folder` loses nobody's files."""
    inside = list(folder.iterdir()) if is_adapter_folder(folder) else []
    return bool(inside) and all(
        _holds_only_adapters(path) if path.is_dir() else path.name in (CONFIG_FILE, WEIGHTS_FILE) for path in inside
    )


def wrapped_model(model: nn.Module) -> str:
    """The path of the one model that `model` is only a wrapper of; empty if it holds weights of its own."""
    inner = as_adaptable(model).inner_models
    alone = len(inner) == 1 and all(name.startswith(inner[0] + ".") for name in model.state_dict())
    return inner[0] if alone else ""


def _write_adapter(model: nn.Module, done: Adaptation, root: str, folder: Path, base: str | None) -> None:
    """Writes what lies inside the module at `root`, by its names there."""
    inside = _inside(done, root)
    module = model.get_submodule(root)
    adapters = adapter_parameters(model)
    prefix = f"{root}." if root else ""
    tensors = {
        name.removeprefix(prefix): value
        for name, value in trained_state(model).items()
        # the initial pair of PiSSA is written as part of the plain one
        if name.startswith(prefix) and name not in adapters and not name.endswith((".initial_a", ".initial_b"))
    }
    # PEFT keeps a module trained in full apart from what it shares weights with: every name has its tensor
    full = {name: value for name, value in module.state_dict().items() if is_inside(name, inside.trained_in_full)}
    tensors = full | tensors
    for path, layer in lora_layers(module).items():
        tensors |= {f"{path}.{kind}": value for kind, value in to_tensors(layer).items()}
    metadata = {
        "format": "pt",
        "eomt_version": __version__,
        "base": base or "",
        "root": root,
        "slices": json.dumps({path: spec.slices for path, spec in inside.adapters.items() if spec.slices}),
        "fingerprint": json.dumps(inside.fingerprint),
    }
    config = peft_config(module, inside, base)
    # copies: safetensors refuses tensors that share memory
    file = {PREFIX + name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    save_file(file, folder / WEIGHTS_FILE, metadata)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def _inside(done: Adaptation, root: str) -> Adaptation:
    """What was done inside the module at `root`, by its names there."""
    prefix = f"{root}." if root else ""
    return replace(
        done,
        adapters={path.removeprefix(prefix): spec for path, spec in done.adapters.items() if path.startswith(prefix)},
        trained_in_full=[path.removeprefix(prefix) for path in done.trained_in_full if path.startswith(prefix)],
        fingerprint={
            path.removeprefix(prefix): entry for path, entry in done.fingerprint.items() if path.startswith(prefix)
        },
    )


def load_adapter(model: nn.Module, folder: str | Path, check_base: bool = True) -> nn.Module:
    """Adapts a plain model as the folder says, or fills a model adapted alike; returns it.

    Args:
        check_base: false loads an adapter onto a base other than the one it was trained on.

    Raises:
        UserError: for a missing or damaged file, a feature that is not implemented, another base, other modules or
            ranks, keys missing or too many.
    """
    folder = Path(folder)
    refuse_compiled(model, "load_adapter")
    config, tensors, metadata = read_folder(folder)
    plan = read_plan(folder, config, tensors, slices_in(folder, metadata))
    root = _find_root(model, folder, plan, metadata)
    for path in plan.adapters:
        if reason := peft_reason(model.get_submodule(_join(root, path))):
            raise UserError(f"{folder}: {path!r} cannot be read: {reason}, so the file was made for another layer")
    check_targets(folder, config, model.get_submodule(root), plan)
    plan, tensors = _below(plan, root), _prefixed(tensors, root)
    theirs = _prefixed(json_field(folder, metadata, "fingerprint"), root)
    done = adaptation(model)
    if done is not None:
        _check_same(folder, done, plan)
        _check_base(folder, done.fingerprint, theirs, metadata, check_base)
        _fill_adapted(model, tensors, folder)
        return model
    with _undone_on_error(model, list(plan.adapters)):
        try:
            inject(model, plan)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
        _check_base(folder, plan.fingerprint, theirs, metadata, check_base)
        _fill_adapted(model, tensors, folder)
    return model


def _find_root(model: nn.Module, folder: Path, plan: Adaptation, metadata: dict[str, str]) -> str:
    """The path in `model` that the folder's names are relative to.

    Raises:
        UserError: if there is no module under one of its names.
    """
    wanted = [*plan.adapters, *plan.trained_in_full]
    missing = wanted
    for root in (metadata.get("root", ""), "", *as_adaptable(model).inner_models):
        paths = {path for path, _ in model.named_modules()}
        missing = [name for name in wanted if _join(root, name) not in paths] if root in paths else missing
        if not missing:
            return root
    if wrapped := [name for name in wanted if "_orig_mod" in name]:
        raise UserError(f"{folder}: {wrapped[0]!r} was saved from a compiled wrapper; save the module inside it")
    raise UserError(f"{folder}: the adapter is for {missing[0]!r}, which this network does not have")


def _below(plan: Adaptation, root: str) -> Adaptation:
    """A plan for the module at `root`, for the network that holds it."""
    full = [_join(root, path) for path in plan.trained_in_full]
    adapters = _prefixed(plan.adapters, root)
    config = replace(plan.config, target_modules=list(adapters), trainable_modules=full)
    return replace(plan, config=config, adapters=adapters, trained_in_full=full)


def _prefixed(values: dict[str, Any], root: str) -> dict[str, Any]:
    return {_join(root, name): value for name, value in values.items()}


def _join(root: str, name: str) -> str:
    return f"{root}.{name}" if root else name


def _fill_adapted(model: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    state = dict(tensors)
    for path, layer in lora_layers(model).items():
        stored = {kind: state.pop(f"{path}.{kind}") for kind in ADAPTER_TENSORS if f"{path}.{kind}" in state}
        state |= {f"{path}.{name}": value for name, value in from_tensors(folder, path, layer, stored).items()}
    fill(model, state, str(folder))


@contextlib.contextmanager
def _undone_on_error(model: nn.Module, paths: list[str]) -> Iterator[None]:
    """Leaves `model` as it was if what happens within fails: its layers at `paths`, and what is trainable."""
    layers = {path: model.get_submodule(path) for path in paths}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    except BaseException:
        for path, layer in layers.items():
            set_module(model, path, layer)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)
        record(model, None)
        raise


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copies trained tensors and buffers into `model`; only what is frozen, and buffers, may be missing from `state`.

    Raises:
        UserError: for keys missing or too many, parameters that this model does not train, or another shape.
    """
    own = model.state_dict()
    needed = expected_trainable(model)
    if wrapped := [name for name in state if "_orig_mod." in name]:
        raise UserError(f"{source}: {wrapped[0]!r} was saved from a compiled wrapper; save the module inside it")
    if missing := sorted(needed - set(state)):
        raise UserError(
            f"{source}: {len(missing)} tensors are missing ({missing[0]}, ...); was another config trained?"
        )
    if unexpected := sorted(set(state) - set(own)):
        raise UserError(f"{source}: {len(unexpected)} tensors are not in this network ({unexpected[0]}, ...)")
    canonical = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = {name: canonical[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
    if lost := sorted(name for name in state if name in parameters and parameters[name] not in needed):
        raise UserError(
            f"{source}: {len(lost)} tensors were trained there that this config freezes ({lost[0]}, ...); "
            "the next save would lose them: add their modules to trainable_modules"
        )
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{source}: {name!r} has shape {list(value.shape)}, this network's has {list(own[name].shape)}"
            )
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for layer in lora_layers(model).values():
            stack.enter_context(layer.original_weight_kept())
        for name, value in state.items():
            own[name].copy_(value)
    mark_loaded(model, state)


def _check_base(
    folder: Path, ours: dict[str, Any], theirs: dict[str, Any], metadata: dict[str, str], check_base: bool
) -> None:
    difference = same_base(ours, theirs) if check_base else None
    if difference:
        name = f" ({metadata['base']})" if metadata.get("base") else ""
        raise UserError(f"{folder}: was trained on another base{name}: {difference}; load that base")


def _check_same(folder: Path, ours: Adaptation, theirs: Adaptation) -> None:
    """That an adapted model and a folder agree in modules, ranks and scales."""
    if ours.config.init_lora_weights == "pissa":
        raise UserError(f"{folder}: holds a plain pair, not PiSSA's; load it onto the network without lora_config")
    if difference := sorted(set(ours.adapters) ^ set(theirs.adapters)):
        where = "the network" if difference[0] in ours.adapters else "the folder"
        raise UserError(f"{folder}: adapts other modules than lora_config: {difference[0]!r} is only in {where}")
    for path, spec in ours.adapters.items():
        other = theirs.adapters[path]
        # k slices multiply alpha by k or its root, and reading divides again: equal up to rounding
        same = spec.rank == other.rank and spec.slices == other.slices and math.isclose(spec.alpha, other.alpha)
        if not same:
            raise UserError(f"{folder}: {path!r} is {other}, lora_config makes it {spec}")
    for name in ("use_rslora", "use_dora"):
        here, there = getattr(ours.config, name), getattr(theirs.config, name)
        if here != there:
            raise UserError(f"{folder}: {name} is {there}, in lora_config {here}")
