"""LoRAConfig and what it does to a network: adapt, freeze, count, report."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from eomt.errors import UserError
from eomt.models.adapter_layer import adapter_parameters, is_adapter_name, lora_layers
from eomt.models.fingerprint import fingerprint
from eomt.models.lora import count_lora_parameters
from eomt.models.lora_backends import NO_PEFT, available_backend, inject_native, inject_peft
from eomt.models.lora_dropout import keep_share
from eomt.models.lora_limits import all_modules, refusal, refuse_compiled, shared_weights, unsuitable_reason
from eomt.models.lora_targets import is_inside, resolve_modules, resolve_targets


@dataclass
class LoRAConfig:
    """How a network is adapted. Every name must match something, or it is an error.

    Attributes:
        enabled: false adds no adapter; with `freeze_base_model` what is left is a linear probe of `trainable_modules`.
        rank: r, the inner size of the update; parameters grow with it in proportion.
        lora_alpha: the update is scaled by alpha / r.
        lora_dropout: on the input of the adapters, while training.
        target_modules: module names (a whole dotted part of a path), the words query, key, value, attention, mlp,
            all-linear, or `re:` and a regular expression on the full path.
        freeze_base_model: train nothing but adapters and `trainable_modules`. Adapted weights are frozen in any case.
        backend: native is this package's own layers, peft those of the PEFT library (native if it is not installed).
        exclude_modules: names as in `target_modules`, taken out again.
        layers: block indices, or "last:4", for targets inside numbered blocks.
        rank_pattern: name -> rank, where it differs.
        alpha_pattern: name -> alpha, where it differs.
        use_rslora: scale by alpha / sqrt(r) (arXiv:2312.03732).
        use_dora: learn the length of each output's weight apart (arXiv:2402.09353); backend peft only.
        trainable_modules: module names, trained in full and saved with the adapter.
        init_lora_weights: default starts as the base (A random, B zero); pissa from the principal singular vectors of
            each weight (arXiv:2404.02948), backend peft only.
        loraplus_lr_ratio: the learning rate of B is that of A times this (LoRA+, arXiv:2402.12354).

    Raises:
        UserError: for a value that is not allowed, naming the field, the value and what is allowed.
    """

    enabled: bool = True
    rank: int = 8
    lora_alpha: int | float = 16
    lora_dropout: float = 0.1
    target_modules: list[str] = field(default_factory=lambda: ["class_head", "mask_head"])
    freeze_base_model: bool = False
    backend: Literal["native", "peft"] = "native"
    exclude_modules: list[str] = field(default_factory=list)
    layers: list[int] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, int | float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    trainable_modules: list[str] = field(default_factory=list)
    init_lora_weights: Literal["default", "pissa"] = "default"
    loraplus_lr_ratio: float = 1.0

    @classmethod
    def recommended(cls, num_images: int, **fields: Any) -> LoRAConfig:
        """The guides' rank and alpha for a number of training images, as a place to start; `fields` are set besides.

        Below 1,000 rank 4, up to 5,000 rank 8, above that rank 16, each with alpha 32: alpha / r falls from 8 to 2.

        Raises:
            UserError: for a number below 1.
        """
        good = isinstance(num_images, int) and not isinstance(num_images, bool) and num_images >= 1
        _check(good, "num_images", num_images, "an integer >= 1")
        rank = 4 if num_images < 1000 else 8 if num_images <= 5000 else 16
        return cls(**{"rank": rank, "lora_alpha": 32, **fields})

    def __post_init__(self) -> None:
        for name in ("enabled", "freeze_base_model", "use_rslora", "use_dora"):
            _check(isinstance(getattr(self, name), bool), name, getattr(self, name), "true or false")
        for name in ("rank_pattern", "alpha_pattern"):
            pattern = getattr(self, name)
            good = isinstance(pattern, dict) and all(isinstance(key, str) and key for key in pattern)
            _check(good, name, pattern, "a mapping of module names to numbers")
        for name, ranks in (("rank", [self.rank]), ("rank_pattern", list(self.rank_pattern.values()))):
            for rank in ranks:
                _check(
                    isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1, name, rank, "an integer >= 1"
                )
        for name, alphas in (("lora_alpha", [self.lora_alpha]), ("alpha_pattern", list(self.alpha_pattern.values()))):
            for alpha in alphas:
                _check(_is_number(alpha) and 0 < alpha < float("inf"), name, alpha, "a number above 0")
        dropout = self.lora_dropout
        good = _is_number(dropout) and 0 <= dropout < 1 and keep_share(dropout) > 0
        _check(good, "lora_dropout", dropout, "at least 0 and at most 0.99999")
        for name in ("target_modules", "exclude_modules", "trainable_modules"):
            names = getattr(self, name)
            is_list = isinstance(names, list | tuple) and all(isinstance(entry, str) and entry for entry in names)
            _check(is_list, name, names, "a list of module names")
        _check(not self.enabled or bool(self.target_modules), "target_modules", [], "at least one name (see `inspect`)")
        if isinstance(self.layers, str):
            good = re.fullmatch(r"last:[1-9]\d*", self.layers) is not None
        elif isinstance(self.layers, list | tuple):
            good = bool(self.layers) and all(type(index) is int and index >= 0 for index in self.layers)
        else:
            good = self.layers is None
        _check(good, "layers", self.layers, 'a list of block indices, or "last:N" with N >= 1')
        _check(self.backend in ("native", "peft"), "backend", self.backend, "native or peft")
        init, ratio = self.init_lora_weights, self.loraplus_lr_ratio
        _check(init in ("default", "pissa"), "init_lora_weights", init, "default or pissa")
        _check(_is_number(ratio) and 0 < ratio < float("inf"), "loraplus_lr_ratio", ratio, "a number above 0")
        if self.backend == "native" and (self.use_dora or init == "pissa"):
            name = "use_dora: true" if self.use_dora else "init_lora_weights: pissa"
            raise UserError(f"{name} needs backend: peft")
        _check(not (self.use_dora and init == "pissa"), "init_lora_weights", init, "default with use_dora")


# `save_hyperparameters()` and Python users may put the config into a checkpoint, which is read with weights_only=True
torch.serialization.add_safe_globals([LoRAConfig])


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter: its rank, its alpha, and which slices of a fused qkv it adapts (none: the whole layer)."""

    rank: int
    alpha: float
    slices: tuple[str, ...] = ()


@dataclass
class Adaptation:
    """What was done to a network, kept on it as `adaptation`. `config` is as it was given; `backend` what was used."""

    config: LoRAConfig
    adapters: dict[str, AdapterSpec]
    trained_in_full: list[str]
    skipped: dict[str, str]
    fingerprint: dict[str, dict[str, Any]]
    backend: str = "native"


def apply_lora(model: nn.Module, config: LoRAConfig | None) -> nn.Module:
    """Adapts `model` in place as `config` says, sets what is trainable, and returns it.

    None leaves the model as it is, trainable in full.

    Raises:
        UserError: if the model is adapted already, for a name or value that cannot work, or a rank above what a layer
            can hold.
    """
    if config is None:
        return model
    if adaptation(model) is not None or lora_layers(model):
        raise UserError("lora_config: this network is adapted already; give lora_config once, to the task or to it")
    refuse_compiled(model, "lora_config")
    new = [name for name in getattr(model, "new_modules", ()) if name not in config.trainable_modules]
    trained_in_full = resolve_modules(model, [*config.trainable_modules, *new])
    if config.freeze_base_model and (tied := tied_outside(model, trained_in_full)):
        raise UserError(
            f"trainable_modules: {tied[0]!r} shares its values with {tied[1]!r}, which would be trained with it; "
            "name that module too, or neither"
        )
    if config.freeze_base_model and (drifting := drifting_statistics(model, trained_in_full)):
        raise UserError(
            f"freeze_base_model: {drifting!r} would be frozen, but its running statistics follow the training images "
            "and change the base; add it to trainable_modules, or set track_running_stats to false"
        )
    adapters: dict[str, AdapterSpec] = {}
    skipped: dict[str, str] = {}
    if config.enabled:
        slices, skipped = resolve_targets(
            model, config.target_modules, config.exclude_modules, config.layers, trained_in_full
        )
        ranks = _by_pattern(slices, config.rank_pattern, "rank_pattern")
        alphas = _by_pattern(slices, config.alpha_pattern, "alpha_pattern")
        adapters = {
            path: AdapterSpec(ranks.get(path, config.rank), alphas.get(path, config.lora_alpha), chosen)
            for path, chosen in slices.items()
        }
    for path, spec in adapters.items():
        layer = model.get_submodule(path)
        limit = _largest_rank(layer, spec)
        if spec.rank > limit:
            raise UserError(
                f"rank: {spec.rank} is above what {path!r} can hold ({limit}); lower it, "
                f"or give this layer its own with rank_pattern: {{{path}: {limit}}}"
            )
    return inject(model, Adaptation(config, adapters, trained_in_full, skipped, {}))


def apply_lora_to_vit(model: nn.Module, config: LoRAConfig | None) -> nn.Module:
    """The guide's name for `apply_lora` on a ViT or an EoMT."""
    return apply_lora(model, config)


def inject(model: nn.Module, plan: Adaptation) -> nn.Module:
    """Carries out an adaptation whose paths are resolved: layers, fingerprint, what is trainable.

    Raises:
        UserError: for a layer that cannot be adapted.
    """
    config = plan.config
    modules, shared = all_modules(model), shared_weights(model)
    for path in plan.adapters:
        if reason := unsuitable_reason(modules[path]) or refusal(modules, path, shared):
            raise UserError(f"{path!r} cannot be adapted: {reason}")
    plan.fingerprint = fingerprint(model, list(plan.adapters))
    plan.backend = available_backend(config) if plan.adapters else "native"
    (inject_peft if plan.backend == "peft" else inject_native)(model, plan)
    model.adaptation = plan  # type: ignore[assignment]
    expected = expected_trainable(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in expected)
    return model


def tied_outside(model: nn.Module, trained_in_full: list[str]) -> tuple[str, str] | None:
    """A parameter inside `trained_in_full` and its name outside of it, if one has such."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for several in names.values():
        inside = [name for name in several if is_inside(name, trained_in_full)]
        outside = [name for name in several if name not in inside]
        if inside and outside:
            return inside[0], outside[0]
    return None


def drifting_statistics(model: nn.Module, trained_in_full: list[str]) -> str | None:
    """The path of a normalisation layer outside `trained_in_full` that keeps running statistics, if there is one."""
    for path, module in model.named_modules():
        tracks = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
        if tracks and not is_inside(path, trained_in_full):
            return path
    return None


def adaptation(model: nn.Module) -> Adaptation | None:
    """What was done to `model` by `apply_lora` or `load_adapter`, None if nothing."""
    return getattr(model, "adaptation", None)


def expected_trainable(model: nn.Module) -> set[str]:
    """Names of the parameters that the config of an adapted model says are trained; all of a plain model.

    What the network's class lists in `frozen_modules` is trained only where `trainable_modules` names it.
    """
    done = adaptation(model)
    frozen = getattr(model, "frozen_modules", ())
    named = done.trained_in_full if done else []
    names = {name for name, _ in model.named_parameters() if not is_inside(name, frozen) or is_inside(name, named)}
    if done is None:
        return names
    adapted_weights = {f"{path}.{layer.base_weight_name}" for path, layer in lora_layers(model).items()}
    if done.config.freeze_base_model:
        return set(adapter_parameters(model)) | {name for name in names if is_inside(name, done.trained_in_full)}
    return names - adapted_weights


def check_trainable(model: nn.Module) -> None:
    """That exactly what the config implies is trainable.

    Raises:
        UserError: naming a tensor that is not.
    """
    expected = expected_trainable(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (name in expected):
            state = "is frozen, though lora_config trains it" if name in expected else "is trained, not by lora_config"
            raise UserError(f"lora_config: {name!r} {state}; was requires_grad changed after the network was adapted?")


def get_lora_stats(model: nn.Module) -> dict[str, Any]:
    """Counts of a model, adapted or not.

    Returns:
        total_parameters (adapters included), trainable_parameters, lora_parameters, trainable_percent (0 to 100),
        adapted_modules (paths).
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {
        "total_parameters": total,
        "trainable_parameters": trainable,
        "lora_parameters": count_lora_parameters(model),
        "trainable_percent": 100 * trainable / total if total else 0.0,
        "adapted_modules": list(lora_layers(model)),
    }


def print_lora_summary(model: nn.Module, config: LoRAConfig | None = None) -> None:
    """Prints what is adapted and trained, in a few lines."""
    print("\n".join(lora_summary(model, config)))


def lora_summary(model: nn.Module, config: LoRAConfig | None = None) -> list[str]:
    """The lines of `print_lora_summary`."""
    done = adaptation(model)
    config = config or (done.config if done else None)
    stats = get_lora_stats(model)
    lines = []
    # of PEFT's own adapters there is no record, and whether they are trained is what counts
    adapters = {name: value for name, value in model.named_parameters() if is_adapter_name(name)}
    if config is None and adapters:
        trained = sum(value.numel() for value in adapters.values() if value.requires_grad)
        layers = len({name.partition(".lora_")[0] for name in adapters})
        lines.append(f"[LoRA] Adapted without a config: {trained:,} trainable params across {layers} layers")
    elif config is None:
        lines.append("[LoRA] None: every parameter is trained (full fine-tuning)")
    elif not config.enabled:
        lines.append("[LoRA] Disabled: no adapters")
    else:
        parameters, layers = stats["lora_parameters"], len(stats["adapted_modules"])
        if done and done.backend == "peft":
            lines.append("[LoRA] Using PEFT library for proper LoRA injection...")
            lines.append(f"[LoRA] PEFT: {parameters:,} trainable params across {layers} layers")
        else:
            lines += [NO_PEFT] if config.backend == "peft" else []
            lines.append(f"[LoRA] Manual injection: {parameters:,} trainable params across {layers} layers")
        extras = [name for name in ("use_rslora", "use_dora") if getattr(config, name)]
        extras += ["pissa"] if config.init_lora_weights == "pissa" else []
        lines.append(
            f"[LoRA] Rank {config.rank}, alpha {config.lora_alpha}, dropout {config.lora_dropout}"
            + "".join(f", {name}" for name in extras)
        )
    if done:
        lines += [f"[LoRA] Left as it is: {path} ({reason})" for path, reason in done.skipped.items()]
        if done.trained_in_full:
            lines.append(f"[LoRA] Trained in full: {', '.join(done.trained_in_full)}")
    lines.append(
        f"[LoRA] Trainable: {stats['trainable_parameters']:,} ({stats['trainable_percent']:.2f}%) | "
        f"Total: {stats['total_parameters']:,}"
    )
    return lines


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode within, each module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _by_pattern(slices: dict[str, tuple[str, ...]], pattern: dict[str, Any], field_name: str) -> dict[str, Any]:
    """The value of each path that a pattern names; a later name wins."""
    values: dict[str, Any] = {}
    for name, value in pattern.items():
        if name.startswith("re:"):
            matches = [path for path in slices if re.fullmatch(name.removeprefix("re:"), path)]
        else:
            matches = [path for path in slices if f".{name}." in f".{path}."]
        if not matches:
            raise UserError(f"{field_name}: {name!r} matches none of the {len(slices)} adapted modules")
        values |= dict.fromkeys(matches, value)
    return values


def _largest_rank(layer: nn.Module, spec: AdapterSpec) -> int:
    """min(in, out) of the matrix that is updated: a higher rank only adds parameters."""
    shape = layer.get_parameter("weight").flatten(1).shape
    out_features = shape[0] // 3 if spec.slices else shape[0]
    return min(out_features, shape[1])


def _check(good: bool, name: str, value: Any, allowed: str) -> None:
    if not good:
        raise UserError(f"{name}: {value!r}, must be {allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
