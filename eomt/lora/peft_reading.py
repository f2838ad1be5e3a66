"""PEFT's adapter format, read: a folder's files and the adaptation that they describe."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from typing_extensions import TypedDict

from eomt.errors import UserError, shortened
from eomt.lora.config import Adaptation, AdapterSpec, LoRAConfig
from eomt.lora.peft_format import ADAPTER_TENSORS, CONFIG_FILE, PREFIX, WEIGHTS_FILE
from eomt.lora.targets import is_inside
from eomt.utils.patterns import Pattern
from eomt.utils.reading import Found, Number, Text, check_regular, parse_json, read_json

Rank = Annotated[int, Field(ge=1, lt=2**31)]
Alpha = Annotated[Number, Field(gt=0)]
REMEDY = "copy the adapter again"


class AdapterConfig(TypedDict, total=False):
    """Fields of PEFT's LoraConfig whose values are used; `_check_fields` looks at all others."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    r: Rank
    lora_alpha: Alpha
    lora_dropout: Annotated[Number, Field(ge=0, lt=1)]
    rank_pattern: dict[str, Rank] | None
    alpha_pattern: dict[str, Alpha] | None
    use_rslora: bool | None
    use_dora: bool | None
    target_modules: list[str] | str | None
    exclude_modules: list[str] | str | None
    modules_to_save: list[Text] | None


CONFIG: TypeAdapter[Any] = TypeAdapter(AdapterConfig)
# what this package writes into the metadata of the weights
SLICES = TypeAdapter(dict[Text, Annotated[list[Literal["query", "key", "value"]], Field(min_length=1)]])
# fields of PEFT's LoraConfig that change what an adapter computes and are not implemented here: the values that are
# accepted, which change nothing
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
    # others, such as olora, change the base weight at the start: the pair alone is not the update
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}
# fields that are read, or that do not change what a finished adapter computes
KNOWN = frozenset(
    {
        *("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern"),
        *("alpha_pattern", "target_modules", "exclude_modules", "modules_to_save", "base_model_name_or_path"),
        *("auto_mapping", "peft_version", "revision", "inference_mode", "layers_to_transform", "layers_pattern"),
        *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
        *("runtime_config", "ensure_weight_tying"),
    }
)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """Return the config, the tensors without PEFT's prefix, and the metadata of an adapter folder.

    Raises:
        UserError: If a file is missing or cannot be read, or a key lacks PEFT's prefix.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; give the folder of an adapter in PEFT's format")
    config: dict[str, Any] = read_json(folder / CONFIG_FILE, CONFIG, REMEDY)
    check_regular(folder / WEIGHTS_FILE, REMEDY)
    try:
        with safe_open(folder / WEIGHTS_FILE, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    # the rest: what PyTorch says of kinds of numbers that it does not have
    except (SafetensorError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); copy it again") from error
    if wrong := [name for name in tensors if not name.startswith(PREFIX)]:
        raise UserError(f"{folder / WEIGHTS_FILE}: {wrong[0]!r} does not start with {PREFIX!r}; PEFT's keys do")
    return config, {name.removeprefix(PREFIX): value for name, value in tensors.items()}, metadata


def json_field(folder: Path, metadata: dict[str, str], name: str, schema: TypeAdapter[Found]) -> Found:
    """Return a field that this package wrote into the metadata; empty for an adapter that PEFT wrote.

    Args:
        folder: Folder of the adapter, for messages.
        metadata: Metadata of the safetensors file.
        name: Name of the field.
        schema: What it must hold.

    Raises:
        UserError: If the field is damaged.
    """
    return parse_json(metadata.get(name, "{}"), schema, f"{folder / WEIGHTS_FILE}: {name} in its metadata", REMEDY)


def slices_in(folder: Path, metadata: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Return path -> slices of a fused qkv, for the pairs that stand for slices."""
    return {path: tuple(names) for path, names in json_field(folder, metadata, "slices", SLICES).items()}


def _check_fields(folder: Path, config: dict[str, Any]) -> None:
    """Check that every field of an adapter's config, and its value, is one that can be read.

    Raises:
        UserError: If one is not; the message names it.
    """
    if config.get("peft_type") != "LORA":
        raise UserError(f"{folder}: peft_type is {config.get('peft_type')!r}; only LORA can be read")
    for name, value in config.items():
        found = shortened(repr(value))
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            raise UserError(f"{folder}: {name}: {found} is not supported here; load this adapter with PEFT")
        if name not in NEUTRAL and name not in KNOWN and value not in (None, False, [], {}, ""):
            raise UserError(f"{folder}: {name}: {found} is not known here; load this adapter with PEFT")


def read_plan(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], slices: dict[str, tuple[str, ...]]
) -> Adaptation:
    """Return the adaptation that a folder describes, with the paths of its tensors.

    Args:
        folder: The folder, for messages.
        config: Content of its adapter_config.json.
        tensors: Its tensors, without PEFT's prefix.
        slices: Path -> slices of a fused qkv, see `slices_in`.

    Raises:
        UserError: If a field cannot be read, a tensor is missing, or both files disagree.
    """
    _check_fields(folder, config)
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    rslora = bool(config.get("use_rslora", False))
    adapters = {}
    for path in [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]:
        if f"{path}.lora_B.weight" not in tensors:
            raise UserError(f"{folder}: {path}.lora_B.weight is missing; copy the adapter again")
        own_rank = pattern_value(folder, config, "rank_pattern", path, rank)
        own_alpha = pattern_value(folder, config, "alpha_pattern", path, alpha)
        if tensors[f"{path}.lora_A.weight"].shape[0] != own_rank:
            raise UserError(
                f"{folder}: {path!r} has rank {tensors[f'{path}.lora_A.weight'].shape[0]}, "
                f"but {own_rank} in {CONFIG_FILE}; copy both files of one adapter"
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


def pattern_value(folder: Path, config: dict[str, Any], field: str, path: str, default: Any) -> Any:
    """Return the value of the first key that matches: PEFT reads each as a regular expression on the end of a path.

    Args:
        folder: Folder of the adapter, for messages.
        config: Content of its adapter_config.json.
        field: rank_pattern or alpha_pattern.
        path: Path of the layer.
        default: What holds where no key matches.

    Raises:
        UserError: If a key is no regular expression.
    """
    for key, value in (config.get(field) or {}).items():
        if _end_of_path(key, f"{folder / CONFIG_FILE}: {field}").fits(path):
            return value
    return default


@lru_cache(maxsize=1024)
def _end_of_path(key: str, place: str) -> Pattern:
    # alone first: what closes a parenthesis that it does not open would change the rest
    Pattern(key, place)
    return Pattern(rf"(.*\.)?({key})", place)


def _saved_modules(folder: Path, config: dict[str, Any], tensors: list[str]) -> list[str]:
    """Return the paths of the modules trained in full: PEFT's names are ends of paths, and the tensors have whole ones.

    Raises:
        UserError: If no tensor belongs to a name.
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
    """Check that each target which is a whole path in `model` has its pair.

    Args:
        folder: Folder of the adapter, for messages.
        config: Content of its adapter_config.json.
        model: The network, or the model inside it that the folder is for.
        done: The adaptation that the folder describes.

    Raises:
        UserError: If a pair is missing; the message names it.
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
