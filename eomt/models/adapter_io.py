"""Adapters on disk: PEFT's format, read back strictly.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. Slices of a fused qkv are written as one
block-diagonal pair, which PEFT reads as an ordinary adapter of k times the rank. What PEFT has no place for travels in
the metadata of the safetensors file: the slices, the fingerprint of the base, its name, and the package's version.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt import __version__
from eomt.errors import UserError
from eomt.models.lora import LoRAAttention, LoRALayer, lora_layers
from eomt.models.lora_integration import (
    Adaptation,
    AdapterSpec,
    LoRAConfig,
    adaptation,
    expected_trainable,
    fingerprint,
    inject,
    same_base,
)
from eomt.models.lora_targets import is_inside

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

# Fields of PEFT's LoraConfig that change what an adapter computes and that are not implemented here: only these
# values are read.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "use_qalora": (False,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "megatron_config": (None,),
    # these change the base weight when the adapter is made, so the pair alone is not the update
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


def is_adapter_folder(path: str | Path) -> bool:
    """Whether `path` is a folder with an adapter in PEFT's format."""
    return (Path(path) / CONFIG_FILE).is_file()


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """What training changed in an adapted or plain model: trained parameters and all persistent buffers."""
    trained = expected_trainable(model)
    parameters = {name for name, _ in model.named_parameters()}
    return {name: value for name, value in model.state_dict().items() if name in trained or name not in parameters}


def save_adapter(model: nn.Module, folder: str | Path, base: str | None = None) -> Path:
    """Writes the adapters, the modules trained in full and the persistent buffers of `model`.

    Args:
        model: adapted by `apply_lora` or `load_adapter`.
        folder: made whole or not at all; one that exists is replaced if it is an adapter folder.
        base: name or path of the base model, for the reader.

    Raises:
        UserError: if the model is not adapted, if more was trained than adapters and named modules, or if the folder
            exists and is something else.
    """
    done = adaptation(model)
    if done is None or not done.adapters:
        raise UserError("save_adapter: the model holds no adapters")
    more = [name for name in sorted(expected_trainable(model)) if not _belongs(name, done)]
    if more:
        raise UserError(
            f"no adapter folder: {len(more)} tensors beside adapters and trainable_modules are trained "
            f"({more[0]}, ...); set freeze_base_model: true to get one"
        )
    layers = lora_layers(model)
    tensors: dict[str, Tensor] = {}
    for name, value in trained_state(model).items():
        if not name.endswith((".lora_a", ".lora_b")):
            tensors[PREFIX + name] = value
    for path, layer in layers.items():
        a, b = _to_pair(layer)
        tensors[f"{PREFIX}{path}.lora_A.weight"], tensors[f"{PREFIX}{path}.lora_B.weight"] = a, b
    metadata = {
        "format": "pt",
        "eomt_version": __version__,
        "base": base or "",
        "slices": json.dumps({path: spec.slices for path, spec in done.adapters.items() if spec.slices}),
        "fingerprint": json.dumps(done.fingerprint),
    }

    def write(beside: Path) -> None:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            beside / WEIGHTS_FILE,
            metadata,
        )
        (beside / CONFIG_FILE).write_text(json.dumps(_peft_config(done, base), indent=2) + "\n")

    return write_folder(Path(folder), write, is_adapter_folder)


def load_adapter(model: nn.Module, folder: str | Path, check_base: bool = True) -> nn.Module:
    """Adapts a plain model as the folder says, or fills a model adapted alike; returns it.

    Args:
        check_base: false loads an adapter onto a base other than the one it was trained on.

    Raises:
        UserError: for a missing or damaged file, a feature that is not implemented, another base, other modules or
            ranks, keys missing or too many.
    """
    folder = Path(folder)
    config, tensors, metadata = _read(folder)
    slices = {path: tuple(names) for path, names in json.loads(metadata.get("slices", "{}")).items()}
    plan = _plan(folder, config, tensors, slices)
    done = adaptation(model)
    if done is None:
        for path in [*plan.adapters, *plan.trained_in_full]:
            try:
                model.get_submodule(path)
            except AttributeError as error:
                raise UserError(f"{folder}: the adapter is for {path!r}, which this network does not have") from error
        _check_base(folder, fingerprint(model, list(plan.adapters)), metadata, check_base)
        inject(model, plan)
    else:
        _check_same(folder, done, plan)
        _check_base(folder, done.fingerprint, metadata, check_base)
    state = {}
    for name, value in tensors.items():
        if ".lora_A." not in name and ".lora_B." not in name:
            state[name] = value
    for path, layer in lora_layers(model).items():
        a, b = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
        state[f"{path}.lora_a"], state[f"{path}.lora_b"] = _from_pair(folder, path, layer, a, b)
    fill(model, state, str(folder))
    return model


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copies trained tensors and buffers into `model`; only what is frozen, and buffers, may be missing from `state`.

    Raises:
        UserError: for keys missing or too many, or another shape.
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
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise UserError(
                f"{source}: {name!r} has shape {list(value.shape)}, this network's has {list(own[name].shape)}"
            )
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    mark_loaded(model, state)


def mark_loaded(model: nn.Module, names: Iterable[str]) -> None:
    """Records that tensors of `model` were read from a file, so that the audit can tell them from random ones."""
    model.loaded = getattr(model, "loaded", set()) | set(names)  # type: ignore[assignment]


def loaded_names(model: nn.Module) -> set[str]:
    """Names, relative to `model`, of all tensors that some loader recorded."""
    found = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name for name in getattr(module, "loaded", ())}
    return found


def write_folder(folder: Path, write: Any, is_ours: Any) -> Path:
    """Makes `folder` whole or not at all: `write` fills a folder beside it, which then takes its place.

    Raises:
        UserError: if it exists and `is_ours(folder)` is false: nobody's files are overwritten.
    """
    if folder.exists() and not is_ours(folder):
        raise UserError(f"{folder}: exists and is not what would be written there; choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        beside.chmod(0o755)
        write(beside)
        for file in beside.iterdir():
            # safetensors makes files that only their owner can read
            file.chmod(0o644)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder


def _belongs(name: str, done: Adaptation) -> bool:
    """Whether a trained tensor is part of an adapter or of a module trained in full."""
    path, _, part = name.rpartition(".")
    return (path in done.adapters and part in ("lora_a", "lora_b")) or is_inside(name, done.trained_in_full)


def _to_pair(layer: LoRALayer) -> tuple[Tensor, Tensor]:
    """A and B as PEFT holds them; slices as stacked A and block-diagonal B."""
    if not isinstance(layer, LoRAAttention):
        return layer.lora_a, layer.lora_b
    k, width, rank = layer.lora_b.shape
    b = layer.lora_b.new_zeros(3, width, k, rank)
    for position, index in enumerate(layer.slice_indices):
        b[index, :, position] = layer.lora_b[position]
    return layer.lora_a.flatten(0, 1), b.reshape(3 * width, k * rank)


def _from_pair(folder: Path, path: str, layer: LoRALayer, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `_to_pair`."""
    if not isinstance(layer, LoRAAttention):
        return a, b
    k, width, rank = layer.lora_b.shape
    blocks = b.view(3, width, k, rank)
    kept = torch.stack([blocks[index, :, position] for position, index in enumerate(layer.slice_indices)])
    if kept.count_nonzero() != b.count_nonzero():
        raise UserError(f"{folder}: {path!r} was trained beyond its slices; read it as one adapter of the whole qkv")
    return a.view(k, rank, -1), kept


def _peft_config(done: Adaptation, base: str | None) -> dict[str, Any]:
    config = done.config
    factor = {path: max(1, len(spec.slices)) for path, spec in done.adapters.items()}
    ranks = {path: spec.rank * factor[path] for path, spec in done.adapters.items()}
    alphas: dict[str, float] = {}
    for path, spec in done.adapters.items():
        # k stacked slices have k times the rank: alpha follows, so that the scale stays what it was
        alphas[path] = spec.alpha * (factor[path] ** 0.5 if config.use_rslora else factor[path])
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": list(done.adapters),
        "modules_to_save": done.trained_in_full or None,
        "rank_pattern": {path: rank for path, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {path: alpha for path, alpha in alphas.items() if alpha != config.lora_alpha},
        "use_rslora": config.use_rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; give the folder of an adapter in PEFT's format")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / CONFIG_FILE}: is no JSON ({error})") from error
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); copy it again") from error
    if wrong := [name for name in tensors if not name.startswith(PREFIX)]:
        raise UserError(f"{folder / WEIGHTS_FILE}: {wrong[0]!r} does not start with {PREFIX!r}, as PEFT's keys do")
    return config, {name.removeprefix(PREFIX): value for name, value in tensors.items()}, metadata


def _plan(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], slices: dict[str, tuple[str, ...]]
) -> Adaptation:
    """The adaptation that a folder describes; its paths are those of its tensors."""
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder}: peft_type is {config.get('peft_type')!r}; only LORA can be read")
    for name, allowed in NEUTRAL.items():
        if name in config and config[name] not in allowed and config[name] is not None:
            raise UserError(f"{folder}: {name}: {config[name]!r} is not supported here; load this adapter with PEFT")
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    rslora = bool(config.get("use_rslora", False))
    adapters = {}
    for path in [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]:
        if f"{path}.lora_B.weight" not in tensors:
            raise UserError(f"{folder}: {path}.lora_B.weight is missing; copy the adapter again")
        own_rank = _pattern_value(config.get("rank_pattern"), path, rank)
        own_alpha = _pattern_value(config.get("alpha_pattern"), path, alpha)
        if tensors[f"{path}.lora_A.weight"].shape[0] != own_rank:
            raise UserError(
                f"{folder}: {path!r} has rank {tensors[f'{path}.lora_A.weight'].shape[0]}, "
                f"{CONFIG_FILE} says {own_rank}; copy both files of one adapter"
            )
        k = max(1, len(slices.get(path, ())))
        own_alpha = own_alpha / (k**0.5 if rslora else k)
        adapters[path] = AdapterSpec(own_rank // k, own_alpha, slices.get(path, ()))
    if not adapters:
        raise UserError(f"{folder / WEIGHTS_FILE}: holds no lora_A tensor; is this an adapter?")
    pairs = {f"{path}.{part}.weight" for path in adapters for part in ("lora_A", "lora_B")}
    # a module saved in full is known by its tensors; buffers lie outside every module that was named
    named = config.get("modules_to_save") or []
    full = {name for name in tensors if name not in pairs}
    trained_in_full = [path for path in named if any(is_inside(name, [path]) for name in full)]
    lora_config = LoRAConfig(
        rank=rank,
        lora_alpha=alpha,
        lora_dropout=config.get("lora_dropout", 0.0),
        target_modules=list(adapters),
        trainable_modules=trained_in_full,
        freeze_base_model=True,
        use_rslora=rslora,
    )
    return Adaptation(lora_config, adapters, trained_in_full, {}, {})


def _pattern_value(pattern: dict[str, Any] | None, path: str, default: Any) -> Any:
    """PEFT's rule: the key is a suffix of the path at a dot."""
    for key, value in (pattern or {}).items():
        if path == key or path.endswith("." + key):
            return value
    return default


def _check_base(folder: Path, ours: dict[str, Any], metadata: dict[str, str], check_base: bool) -> None:
    theirs = json.loads(metadata.get("fingerprint", "{}"))
    difference = same_base(ours, theirs) if check_base else None
    if difference:
        name = f" ({metadata['base']})" if metadata.get("base") else ""
        raise UserError(f"{folder}: was trained on another base{name}: {difference}; load that base")


def _check_same(folder: Path, ours: Adaptation, theirs: Adaptation) -> None:
    """That an adapted model and a folder agree in modules, ranks and scales."""
    if difference := sorted(set(ours.adapters) ^ set(theirs.adapters)):
        where = "the network" if difference[0] in ours.adapters else "the folder"
        raise UserError(f"{folder}: adapts other modules than lora_config: {difference[0]!r} is only in {where}")
    for path, spec in ours.adapters.items():
        if spec != theirs.adapters[path]:
            raise UserError(f"{folder}: {path!r} is {theirs.adapters[path]}, lora_config makes it {spec}")
    if ours.config.use_rslora != theirs.config.use_rslora:
        raise UserError(f"{folder}: use_rslora is {theirs.config.use_rslora}, in lora_config {ours.config.use_rslora}")
