"""How a network is adapted: what the user says, and what was done."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora.dropout import keep_share


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
    def recommended(cls, num_images: int, **fields: Any) -> Self:
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


# saved YAML and checkpoints name the public address, whatever file this is; read with weights_only=True
LoRAConfig.__module__ = "eomt.models.lora_integration"
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


def adaptation(model: nn.Module) -> Adaptation | None:
    """What was done to `model` by `apply_lora` or `load_adapter`, None if nothing."""
    return vars(model).get("adaptation")


def record(model: nn.Module, done: Adaptation | None) -> None:
    """Keep on `model` what was done to it; None forgets it. A copy of the model keeps it too."""
    if done is None:
        vars(model).pop("adaptation", None)
    else:
        vars(model)["adaptation"] = done


def _check(good: bool, name: str, value: Any, allowed: str) -> None:
    if not good:
        raise UserError(f"{name}: {value!r}, must be {allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
