"""Adapters on disk, in PEFT's format; reading is strict.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Slices of a fused qkv are written as one
block-diagonal pair, which PEFT reads as an ordinary adapter of k times the rank. PEFT's format has no place for the
slices, the fingerprint of the base, its name and the package's version: they are in the metadata of the safetensors
file.
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
from eomt.lora.adapter_layer import (
    adapter_parameters,
    forget_calls,
    lora_layers,
    require_called,
    require_values,
    set_module,
)
from eomt.lora.apply import inject
from eomt.lora.config import Adaptation, adaptation, record
from eomt.lora.fingerprint import FINGERPRINT, same_base
from eomt.lora.peft_format import (
    ADAPTER_TENSORS,
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    from_tensors,
    peft_config,
    to_tensors,
)
from eomt.lora.peft_reading import check_targets, json_field, read_folder, read_plan, slices_in
from eomt.lora.supported_layers import peft_reason, refuse_wrapped
from eomt.lora.targets import is_inside
from eomt.lora.trainable import check_trainable, expected_trainable
from eomt.utils.arguments import checked_arguments
from eomt.utils.files import write_folder
from eomt.utils.loaded import mark_loaded


@checked_arguments
def is_adapter_folder(path: str | Path) -> bool:
    """Return whether `path` is a folder with an adapter in PEFT's format.

    Raises:
        UserError: If it is no path.
    """
    return (Path(path) / CONFIG_FILE).is_file()


@checked_arguments
def save_adapter(model: nn.Module, folder: str | Path, base: str | None = None, check_called: bool = True) -> Path:
    """Write the adapters, the modules trained in full and the persistent buffers of `model`; return the folder.

    Args:
        model: A model that `apply_lora` or `load_adapter` adapted.
        folder: Folder that is written, whole or not at all; an adapter folder that exists is replaced.
        base: Name or path of the base model, for whoever reads the file.
        check_called: Refuse an adapter that was never called though the model ran.

    Raises:
        UserError: If an argument is not of its type, the model is not adapted, an adapter has no effect, more was
            trained than adapters and named modules, PEFT would confuse a named module with another, or the folder
            exists and is something else, or cannot be made.
    """
    refuse_wrapped(model, "save_adapter")
    done = adaptation(model)
    if done is None or not done.adapters:
        found = "its adapters were not made by apply_lora" if lora_layers(model) else "the model holds no adapters"
        raise UserError(f"save_adapter: {found}; adapt it with apply_lora")
    if check_called:
        require_called(model, "save_adapter")
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
    require_values(trained_state(model), "save_adapter")
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

    return write_folder(Path(folder), write, holds_only_adapters)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what training may change in an adapted or plain model: trained parameters and all persistent buffers."""
    trained = expected_trainable(model)
    # a shared parameter has several names here: it is saved under the first, if at all
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: value for name, value in model.state_dict().items() if name in trained or name not in parameters}


def holds_only_adapters(folder: Path) -> bool:
    """Return whether `folder` holds adapter files and nothing else, so that it can be replaced."""
    inside = list(folder.iterdir()) if is_adapter_folder(folder) else []
    return bool(inside) and all(
        holds_only_adapters(path) if path.is_dir() else path.name in (CONFIG_FILE, WEIGHTS_FILE) for path in inside
    )


def wrapped_model(model: nn.Module) -> str:
    """Return the path of the one inner model that holds all weights of `model`; empty if there is none."""
    inner = as_adaptable(model).inner_models
    alone = len(inner) == 1 and all(name.startswith(inner[0] + ".") for name in model.state_dict())
    return inner[0] if alone else ""


def _write_adapter(model: nn.Module, done: Adaptation, root: str, folder: Path, base: str | None) -> None:
    """Write the part of the adaptation inside the module at `root`, under the names it has there."""
    inside = _inside(done, root)
    module = model.get_submodule(root)
    adapters = adapter_parameters(model)
    prefix = f"{root}." if root else ""
    tensors = {
        name.removeprefix(prefix): value
        for name, value in trained_state(model).items()
        # the initial pair of PiSSA is written inside the plain pair
        if name.startswith(prefix) and name not in adapters and not name.endswith((".initial_a", ".initial_b"))
    }
    # PEFT copies a module that is trained in full, so that shared weights need a tensor under each name
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
    """Return the part of an adaptation inside the module at `root`, with the names it has there."""
    prefix = f"{root}." if root else ""
    return replace(
        done,
        adapters={path.removeprefix(prefix): spec for path, spec in done.adapters.items() if path.startswith(prefix)},
        trained_in_full=[path.removeprefix(prefix) for path in done.trained_in_full if path.startswith(prefix)],
        fingerprint={
            path.removeprefix(prefix): entry for path, entry in done.fingerprint.items() if path.startswith(prefix)
        },
    )


@checked_arguments
def load_adapter(model: nn.Module, folder: str | Path, check_base: bool = True) -> nn.Module:
    """Adapt a plain model as the folder says, or fill a model with the same adapters; return it.

    Args:
        model: A plain model, or one that is adapted in the same way.
        folder: A folder in PEFT's format.
        check_base: Refuse an adapter that was trained on another base.

    Raises:
        UserError: If an argument is not of its type, a file is missing or damaged, a feature is not implemented, the
            base, the modules or the ranks are different, or keys are missing or too many.
    """
    folder = Path(folder)
    refuse_wrapped(model, "load_adapter")
    config, tensors, metadata = read_folder(folder)
    plan = read_plan(folder, config, tensors, slices_in(folder, metadata))
    root = _find_root(model, folder, plan, metadata)
    for path in plan.adapters:
        if reason := peft_reason(model.get_submodule(_join(root, path))):
            raise UserError(f"{folder}: {path!r} cannot be read: {reason}; the file was made for another layer")
    check_targets(folder, config, model.get_submodule(root), plan)
    plan, tensors = _below(plan, root), _prefixed(tensors, root)
    theirs = _prefixed(json_field(folder, metadata, "fingerprint", FINGERPRINT), root)
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
    """Return the path in `model` that the folder's names start from.

    Raises:
        UserError: If `model` has no module under one of these names.
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
    raise UserError(
        f"{folder}: the adapter is for {missing[0]!r}, which this network does not have; choose its network"
    )


def _below(plan: Adaptation, root: str) -> Adaptation:
    """Return the plan for a module at `root` as a plan for the network that holds it."""
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
    """Put the layers at `paths`, and what is trainable, back if anything fails within."""
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
        forget_calls(model)
        raise


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy trained tensors and buffers into `model`; `state` may lack only buffers and frozen tensors.

    Args:
        model: Adapted or plain.
        state: Name -> tensor.
        source: Where the tensors come from, for messages.

    Raises:
        UserError: If keys are missing or too many, a parameter is one that this model does not train, or a shape
            differs, or a value is not finite.
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
        raise UserError(
            f"{source}: {len(unexpected)} tensors are not in this network ({unexpected[0]}, ...); choose their network"
        )
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
                f"{source}: {name!r} has shape {list(value.shape)}; this network's has {list(own[name].shape)}"
            )
        if value.is_complex() or value.layout != torch.strided:
            raise UserError(f"{source}: {name!r} is {value.dtype}, {value.layout}; must hold plain numbers")
        # a buffer may say with NaN that it is not set
        if name in needed and not value.to(own[name].dtype).isfinite().all():
            raise UserError(f"{source}: {name!r} holds values that are not finite; give a file from before that")
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
    """Check that an adapted model and a folder agree in modules, ranks and scales."""
    if ours.config.init_lora_weights == "pissa":
        raise UserError(
            f"{folder}: holds a plain pair and not that of PiSSA; load it onto the network without lora_config"
        )
    if difference := sorted(set(ours.adapters) ^ set(theirs.adapters)):
        where = "the network" if difference[0] in ours.adapters else "the folder"
        raise UserError(f"{folder}: adapts other modules than lora_config: {difference[0]!r} is only in {where}")
    for path, spec in ours.adapters.items():
        other = theirs.adapters[path]
        # writing k slices multiplies alpha by k or its root and reading divides again, so that it is rounded
        same = spec.rank == other.rank and spec.slices == other.slices and math.isclose(spec.alpha, other.alpha)
        if not same:
            raise UserError(f"{folder}: {path!r} is {other}; lora_config makes it {spec}")
    for name in ("use_rslora", "use_dora"):
        here, there = getattr(ours.config, name), getattr(theirs.config, name)
        if here != there:
            raise UserError(f"{folder}: {name} is {there}, but {here} in lora_config; set {name}: {str(there).lower()}")
