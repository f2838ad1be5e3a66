"""How a network is adapted: the user's settings, and the record of what was done."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import nn

from eomt.errors import UserError, shortened
from eomt.lora.dropout import keep_share
from eomt.lora.packing import KINDS, Quantization
from eomt.utils.arguments import checked_arguments


@dataclass
class LoRAConfig:
    """The settings of LoRA. A name that matches nothing is an error.

    Attributes:
        enabled: False adds no adapter. With `freeze_base_model` this is a linear probe: only `trainable_modules` are
            trained.
        rank: Inner size r of the update. The number of added parameters is proportional to it.
        lora_alpha: Alpha; the update is scaled by alpha / r.
        lora_dropout: Dropout on the input of the adapters, in training.
        target_modules: Module names (a whole dotted part of a path), the words query, key, value, attention, mlp,
            all-linear, or `re:` and a regular expression on the full path.
        freeze_base_model: Train nothing but adapters and `trainable_modules`. Adapted weights are frozen in any case.
        backend: Layers that are used: native, this package's own, or peft, those of the PEFT library (native if it is
            not installed).
        exclude_modules: Names as in `target_modules` that are not adapted.
        layers: Block indices, or "last:4", for targets inside numbered blocks.
        rank_pattern: Name -> rank, where it differs from `rank`.
        alpha_pattern: Name -> alpha, where it differs from `lora_alpha`.
        use_rslora: Scale the update by alpha / sqrt(r) (arXiv:2312.03732).
        use_dora: Train the length of each output's weight separately (DoRA, arXiv:2402.09353); backend peft only.
        trainable_modules: Names of modules that are trained in full and saved with the adapter.
        init_lora_weights: Values at the start: default (A random, B zero, so that the network answers as its base), or
            pissa, the principal singular vectors of each weight (arXiv:2404.02948); backend peft only.
        loraplus_lr_ratio: Learning rate of B divided by that of A (LoRA+, arXiv:2402.12354).
        quantize: How the frozen linear layers of the network's blocks, and all adapted ones, hold their weights: int8,
            or nf4 (4 bits, QLoRA, arXiv:2305.14314); null as they are. With freeze_base_model and backend native only.

    Raises:
        UserError: If a value is not allowed; the message names the field, the value and what is allowed.
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
    quantize: Quantization | None = None

    @classmethod
    def recommended(cls, num_images: int, **fields: Any) -> Self:
        """Return a config to start from, with the guides' rank and alpha for a number of training images.

        Rank 4 below 1,000 images, rank 8 up to 5,000, rank 16 above, each with alpha 32: alpha / r falls from 8 to 2.

        Args:
            num_images: Number of training images.
            **fields: Other fields of the config.

        Raises:
            UserError: If the number is below 1.
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
                check_rank(rank, name)
        for name, alphas in (("lora_alpha", [self.lora_alpha]), ("alpha_pattern", list(self.alpha_pattern.values()))):
            for alpha in alphas:
                check_alpha(alpha, name)
        check_dropout(self.lora_dropout)
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
            raise UserError(f"{name}; it needs backend: peft")
        kind = self.quantize
        _check(kind is None or kind in KINDS, "quantize", kind, f"{', '.join(KINDS)} or null")
        if kind is not None and self.backend == "peft":
            raise UserError(f"quantize: {kind} with backend: peft, whose layers hold weights in full; give native")
        if kind is not None and not self.freeze_base_model:
            raise UserError(f"quantize: {kind}, but freeze_base_model: false trains the base; set it to true")
        _check(not (self.use_dora and init == "pissa"), "init_lora_weights", init, "default with use_dora")


# saved YAML and checkpoints hold this public address; checkpoints are read with weights_only=True
LoRAConfig.__module__ = "eomt.models.lora_integration"
torch.serialization.add_safe_globals([LoRAConfig])


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter.

    Attributes:
        rank: Inner size r of the update.
        alpha: Alpha; the update is scaled by alpha / r.
        slices: Slices of a fused qkv that it adapts; empty for the whole layer.
    """

    rank: int
    alpha: float
    slices: tuple[str, ...] = ()


@dataclass
class Adaptation:
    """What was done to a network; kept on the network as `adaptation`.

    Attributes:
        config: The settings as they were given.
        adapters: Path -> adapter.
        trained_in_full: Paths of the modules that are trained in full.
        skipped: Path -> reason, for layers that match a target but cannot be adapted.
        fingerprint: Path -> shape and some entries of the base weight, see `eomt.lora.fingerprint`.
        backend: Layers that were used: native or peft.
    """

    config: LoRAConfig
    adapters: dict[str, AdapterSpec]
    trained_in_full: list[str]
    skipped: dict[str, str]
    fingerprint: dict[str, dict[str, Any]]
    backend: str = "native"


@checked_arguments
def adaptation(model: nn.Module) -> Adaptation | None:
    """Return what `apply_lora` or `load_adapter` did to `model`; None if it is not adapted.

    Raises:
        UserError: If the model is no module.
    """
    return vars(model).get("adaptation")


def record(model: nn.Module, done: Adaptation | None) -> None:
    """Keep on `model`, and on its later copies, what was done to it; None removes that record."""
    if done is None:
        vars(model).pop("adaptation", None)
    else:
        vars(model)["adaptation"] = done


def check_rank(rank: Any, name: str = "rank") -> None:
    """Check the rank in a field.

    Raises:
        UserError: If it is no integer, or below 1.
    """
    _check(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1, name, rank, "an integer >= 1")


def check_alpha(alpha: Any, name: str = "lora_alpha") -> None:
    """Check the alpha in a field.

    Raises:
        UserError: If it is no number above 0.
    """
    _check(_is_number(alpha) and 0 < alpha < float("inf"), name, alpha, "a number above 0")


def check_dropout(dropout: Any) -> None:
    """Check the dropout of adapters.

    Raises:
        UserError: If it is no number from 0 to 0.99999.
    """
    good = _is_number(dropout) and 0 <= dropout < 1 and keep_share(dropout) > 0
    _check(good, "lora_dropout", dropout, "at least 0 and at most 0.99999")


def _check(good: bool, name: str, value: Any, allowed: str) -> None:
    if not good:
        raise UserError(f"{name}: {shortened(repr(value), 80)}; must be {allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
