"""PEFT's adapter format: what our adapters are in it, and what one that was read asks for.

Two of PEFT's rules decide the forms written here (measured on peft 0.21.2): a name in `target_modules` also matches
every path that ends with it after a dot, one in `modules_to_save` every path that ends with it at all. Keys of
`rank_pattern` and `alpha_pattern` are regular expressions on the end of a path.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer, lora_layers
from eomt.lora.config import Adaptation, AdapterSpec, LoRAConfig
from eomt.lora.layers import LoRAAttention
from eomt.lora.targets import is_inside

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# PEFT refuses to copy these for modules_to_save.
LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)

# Fields of PEFT's LoraConfig that change what an adapter computes and that are not implemented here: only these
# values are read.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "velora_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "megatron_config": (None,),
    # these change the base weight when the adapter is made, so the pair alone is not the update
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}


# Fields that are read, or that change nothing of what a finished adapter computes.
KNOWN = frozenset(
    {
        *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern"),
        *("alpha_pattern", "target_modules", "exclude_modules", "modules_to_save", "base_model_name_or_path"),
        *("auto_mapping", "peft_version", "revision", "inference_mode", "layers_to_transform", "layers_pattern"),
        *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
        *("runtime_config", "ensure_weight_tying"),
    }
)
# What a pair that is stored under a path is called there, and DoRA's lengths.
ADAPTER_TENSORS = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")


def to_tensors(layer: AdapterLayer) -> dict[str, Tensor]:
    """The adapter of a layer as PEFT's files hold it: slices as stacked A and block-diagonal B, PiSSA as plain LoRA."""
    tensors: dict[str, Tensor] = {kind: layer.get_parameter(name) for kind, name in layer.adapter_tensors().items()}
    if pair := layer.initial_pair():
        # W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]
        initial_a, initial_b = pair
        a, b = torch.cat([layer.lora_a, initial_a]), torch.cat([layer.lora_b, -initial_b], 1)
        tensors |= {"lora_A.weight": a, "lora_B.weight": b}
    if isinstance(layer, LoRAAttention):
        k, width, rank = layer.lora_b.shape
        b = layer.lora_b.new_zeros(3, width, k, rank)
        for position, index in enumerate(layer.slice_indices):
            b[index, :, position] = layer.lora_b[position]
        tensors = {"lora_A.weight": layer.lora_a.flatten(0, 1), "lora_B.weight": b.reshape(3 * width, k * rank)}
    return tensors


def from_tensors(folder: Path, path: str, layer: AdapterLayer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_tensors`, by the names of the layer's parameters; a plain pair stays one."""
    if not isinstance(layer, LoRAAttention):
        names = layer.adapter_tensors()
        return {names.get(kind, kind): value for kind, value in tensors.items()}
    a, b = tensors["lora_A.weight"], tensors["lora_B.weight"]
    k, width, rank = layer.lora_b.shape
    if a.shape != (k * rank, layer.in_features) or b.shape != (3 * width, k * rank):
        raise UserError(
            f"{folder}: {path!r} has a pair of shapes {list(a.shape)} and {list(b.shape)}, the slices here need "
            f"{[k * rank, layer.in_features]} and {[3 * width, k * rank]}; choose the base that it was trained on"
        )
    blocks = b.view(3, width, k, rank)
    kept = torch.stack([blocks[index, :, position] for position, index in enumerate(layer.slice_indices)])
    if kept.count_nonzero() != b.count_nonzero():
        raise UserError(f"{folder}: {path!r} was trained beyond its slices; read it as one adapter of the whole qkv")
    return {"lora_a": a.view(k, rank, -1), "lora_b": kept}


def peft_config(model: nn.Module, done: Adaptation, base: str | None) -> dict[str, Any]:
    """The content of adapter_config.json, whose names PEFT applies to exactly the paths that are meant.

    Args:
        model: the adapted network, or the model inside it that `done` speaks of.

    Raises:
        UserError: for a module trained in full that PEFT has no unambiguous name for.
    """
    layers = lora_layers(model)
    stored = {path: to_tensors(layers[path])["lora_A.weight"].shape[0] for path in done.adapters}
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": _target_modules(model, done.adapters),
        "modules_to_save": _modules_to_save(model, done) or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        **peft_settings(done, stored),
    }


def peft_settings(done: Adaptation, stored: Mapping[str, int] | None = None) -> dict[str, Any]:
    """PEFT's fields for ranks, scales and variants.

    Args:
        stored: path -> rank in the file, where it is a multiple of the adapter's: k slices, or PiSSA's two pairs.
    """
    config, ranks, alphas = done.config, {}, {}
    for path, spec in done.adapters.items():
        ranks[path] = stored[path] if stored else spec.rank
        factor = ranks[path] // spec.rank
        # alpha follows the rank, so that the scale stays what it was
        alphas[path] = spec.alpha * (factor**0.5 if config.use_rslora else factor)
    return {
        "r": config.rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "rank_pattern": {_exactly(path): rank for path, rank in ranks.items() if rank != config.rank},
        "alpha_pattern": {_exactly(path): alpha for path, alpha in alphas.items() if alpha != config.lora_alpha},
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
    }


def _exactly(path: str) -> str:
    """A key of PEFT's patterns for this path alone: without the ^, "head" is also the end of "decoder.head"."""
    return f"^{re.escape(path)}"


def _target_modules(model: nn.Module, adapted: Collection[str]) -> list[str] | str:
    """The paths; one regular expression where the end of another path is the same."""
    for path, _ in model.named_modules():
        if path not in adapted and any(path.endswith(f".{target}") for target in adapted):
            return "|".join(re.escape(target) for target in adapted)
    return list(adapted)


def _modules_to_save(model: nn.Module, done: Adaptation) -> list[str]:
    modules = dict(model.named_modules())
    named = [inner for path in done.trained_in_full for inner in _savable(path, modules[path])]
    for path in named:
        clash = next((target for target in done.adapters if re.match(rf"(.*\.)?{path}($|\.)", target)), None)
        for other, module in modules.items():
            if other in named or not other.endswith(path):
                continue
            # PEFT copies `other` too, and then misses its tensors in the file
            if isinstance(module, LISTS) or module.state_dict():
                clash = clash or other
        if clash:
            raise UserError(
                f"trainable_modules: PEFT would take {path!r} for {clash!r} too, whose name ends alike or contains it; "
                "rename one of the two modules, or train both in full"
            )
    return named


def _savable(path: str, module: nn.Module) -> list[str]:
    """The path, or those of the children where PEFT refuses to copy the container."""
    if not isinstance(module, LISTS):
        return [path]
    return [inner for name, child in module.named_children() for inner in _savable(f"{path}.{name}", child)]


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; give the folder of an adapter in PEFT's format")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / CONFIG_FILE}: is no JSON ({error}); copy it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG_FILE}: holds no fields; copy it again")
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); copy it again") from error
    if wrong := [name for name in tensors if not name.startswith(PREFIX)]:
        raise UserError(f"{folder / WEIGHTS_FILE}: {wrong[0]!r} does not start with {PREFIX!r}, as PEFT's keys do")
    return config, {name.removeprefix(PREFIX): value for name, value in tensors.items()}, metadata


def json_field(folder: Path, metadata: dict[str, str], name: str) -> dict[str, Any]:
    """What this package wrote into the metadata, empty for an adapter of PEFT's.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        found = json.loads(metadata.get(name, "{}"))
    except ValueError as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: {name} in its metadata is no JSON; copy it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{folder / WEIGHTS_FILE}: {name} in its metadata is damaged; copy it again")
    return found


def slices_in(folder: Path, metadata: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Path -> slices of a fused qkv that its pair stands for."""
    return {path: tuple(names) for path, names in json_field(folder, metadata, "slices").items()}


def _check_fields(folder: Path, config: dict[str, Any]) -> None:
    """That every field is known, with a value that is.

    Raises:
        UserError: naming one that is not.
    """
    file = folder / CONFIG_FILE
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder}: peft_type is {config.get('peft_type')!r}; only LORA can be read")
    for name, value in config.items():
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            raise UserError(f"{folder}: {name}: {value!r} is not supported here; load this adapter with PEFT")
        if name not in NEUTRAL and name not in KNOWN and value not in (None, False, [], {}, ""):
            raise UserError(f"{folder}: {name}: {value!r} is not known here; load this adapter with PEFT")
    for name in ("r", "lora_alpha", "lora_dropout"):
        if not isinstance(config.get(name, 1), int | float) or isinstance(config.get(name), bool):
            raise UserError(f"{file}: {name}: {config[name]!r} is no number; copy the adapter again")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            raise UserError(f"{file}: {name}: {config[name]!r} is no mapping; copy the adapter again")


def read_plan(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], slices: dict[str, tuple[str, ...]]
) -> Adaptation:
    """The adaptation that a folder describes; its paths are those of its tensors."""
    _check_fields(folder, config)
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    rslora = bool(config.get("use_rslora", False))
    adapters = {}
    for path in [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]:
        if f"{path}.lora_B.weight" not in tensors:
            raise UserError(f"{folder}: {path}.lora_B.weight is missing; copy the adapter again")
        own_rank = _pattern_value(folder, config, "rank_pattern", path, rank)
        own_alpha = _pattern_value(folder, config, "alpha_pattern", path, alpha)
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
    use_dora = bool(config.get("use_dora", False))
    pairs = {f"{path}.{kind}" for path in adapters for kind in ADAPTER_TENSORS[: 3 if use_dora else 2]}
    if orphans := [name for name in tensors if name.endswith(".lora_B.weight") and name not in pairs]:
        raise UserError(f"{folder}: {orphans[0].replace('lora_B', 'lora_A')} is missing; copy the adapter again")
    trained_in_full = _saved_modules(folder, config, [name for name in tensors if name not in pairs])
    lora_config = LoRAConfig(
        rank=rank,
        lora_alpha=alpha,
        lora_dropout=config.get("lora_dropout", 0.0),
        target_modules=list(adapters),
        trainable_modules=trained_in_full,
        freeze_base_model=True,
        use_rslora=rslora,
        use_dora=use_dora,
        backend="peft" if use_dora else "native",
    )
    return Adaptation(lora_config, adapters, trained_in_full, {}, {})


def _pattern_value(folder: Path, config: dict[str, Any], field: str, path: str, default: Any) -> Any:
    """PEFT's rule: each key is a regular expression on the end of a path, from a dot on; the first that matches."""
    for key, value in (config.get(field) or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", path):
                return value
        except re.error as error:
            raise UserError(f"{folder}: {field}: {key!r} is no regular expression ({error})") from error
    return default


def _saved_modules(folder: Path, config: dict[str, Any], tensors: list[str]) -> list[str]:
    """Paths of the modules trained in full: PEFT's names are ends of paths, the tensors tell of which.

    Raises:
        UserError: for a name that owns no tensor.
    """
    found: list[str] = []
    for named in config.get("modules_to_save") or []:
        paths = []
        for name in tensors:
            parts = name.split(".")[:-1]
            containers = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
            paths += [path for path in containers if path.endswith(named)][:1]
        if not paths:
            raise UserError(
                f"{folder}: {CONFIG_FILE} has {named!r} in modules_to_save, but none of its tensors is there; "
                "copy both files of one adapter"
            )
        found += [path for path in dict.fromkeys(paths) if path not in found]
    return [path for path in found if not is_inside(path, [other for other in found if other != path])]


def check_targets(folder: Path, config: dict[str, Any], model: nn.Module, done: Adaptation) -> None:
    """That each module which the folder names by its whole path in `model` has its pair.

    Raises:
        UserError: naming one that has none.
    """
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("exclude_modules"):
        return
    paths = {path for path, _ in model.named_modules()}
    for target in targets:
        if target in paths and target not in done.adapters and not is_inside(target, done.trained_in_full):
            raise UserError(
                f"{folder}: {target}.lora_A.weight is missing, though {CONFIG_FILE} has {target!r} in target_modules; "
                "copy the adapter again"
            )
