"""The ways of training that a sweep compares, as changes of one configuration."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from eomt.errors import UserError, listed
from eomt.lora.adaptable import as_adaptable
from eomt.lora.config import LoRAConfig
from eomt.lora.targets import block_lists, is_inside, resolve_targets
from eomt.models.network import Network

# half a power of ten: the learning rates of a way are this far apart
STEP = math.sqrt(10)
# learning rates that a way begins with: around 1e-3 for what is new or low in rank, lower for what was pre-trained
NEW_RATES = (3e-4, 1e-3, 3e-3)
BLOCK_RATES = (1e-4, 3e-4, 1e-3)
FULL_RATES = (3e-5, 1e-4, 3e-4)
# share of the blocks that "last" trains
LAST_SHARE = 0.25
LORA_CLASS = "eomt.models.lora_integration.LoRAConfig"
# targets of the two ways with adapters
ATTENTION, ATTENTION_AND_MLP = ("attention",), ("attention", "mlp")


def rate_text(lr: float) -> str:
    """Return a learning rate as in 1e-3 or 3.2e-4, with all of its digits: it is a part of names."""
    mantissa, _, exponent = f"{Decimal(repr(float(lr))).normalize():e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def round_rate(lr: float) -> float:
    """Return a learning rate with two digits; half a power of ten is 3."""
    mantissa, _, exponent = f"{lr:.1e}".partition("e")
    return float(f"{3 if mantissa in ('3.1', '3.2') else 10 if mantissa in ('9.4', '9.5') else mantissa}e{exponent}")


@dataclass(frozen=True)
class Way:
    """A way of training.

    Attributes:
        name: Short name, in the names of runs and in `--ways`.
        title: Name for people.
        lora_config: The field of the configuration; None for full fine-tuning.
        rates: Learning rates to begin with, rising.
        given_rate: The learning rate of the configuration, if this is its own way; else None.
    """

    name: str
    title: str
    lora_config: dict[str, Any] | None
    rates: tuple[float, ...]
    given_rate: float | None = None

    @property
    def is_given(self) -> bool:
        """Whether this is the configuration's own way."""
        return self.given_rate is not None

    @property
    def has_adapters(self) -> bool:
        """Whether it trains adapters."""
        return self.lora_config is not None and self.lora_config["init_args"].get("enabled", True)


@dataclass(frozen=True)
class Ways:
    """The ways that a network allows, and in one line each why others are left out."""

    ways: list[Way]
    left_out: list[str]


def ways_of(network: Network, given: Mapping[str, Any] | None, lr: float, has_base: bool) -> Ways:
    """Return the ways of training a network.

    Args:
        network: The network, without adapters.
        given: `lora_config` of the configuration, its class_path and init_args; None for full fine-tuning.
        lr: Learning rate of the configuration.
        has_base: Whether its weights were read from a file: of a random network nothing can stay frozen.
    """
    own = dict((given or {}).get("init_args") or {})
    found, left_out = [_as_given(own if given else None, lr)], []
    if not has_base:
        return Ways(found, ["the base is random, so that everything is trained: there is one way"])
    heads = sorted({*own.get("trainable_modules", []), *outside_of_backbone(network)})
    frozen = {"freeze_base_model": True, "exclude_modules": own.get("exclude_modules", [])}
    # what stays frozen is held as with adapters, in layers that have none, too
    kind = own.get("quantize")
    held = {"quantize": kind} if kind and block_lists(network) else {}

    def lora(**fields: Any) -> dict[str, Any]:
        return {"class_path": LORA_CLASS, "init_args": fields}

    if heads:
        probe = lora(enabled=False, freeze_base_model=True, trainable_modules=heads, **held)
        found.append(Way("heads", "heads only", probe, NEW_RATES))
    else:
        left_out.append("heads: the network has none outside of its backbone")
    blocks = last_blocks(network)
    if blocks:
        title = f"heads and the last {len(blocks)} blocks" if len(blocks) > 1 else "heads and the last block"
        part = lora(enabled=False, freeze_base_model=True, trainable_modules=[*heads, *blocks], **held)
        found.append(Way("last", title, part, BLOCK_RATES))
    else:
        left_out.append("last: the network does not number its blocks")
    for name, title, targets in (
        ("attention", "LoRA on attention", ATTENTION),
        ("attention_mlp", "LoRA on attention + MLP", ATTENTION_AND_MLP),
    ):
        if own.get("enabled", True) and tuple(own.get("target_modules", ())) == targets:
            # the configuration itself is this way
            found[0] = Way(name, title, found[0].lora_config, found[0].rates, given_rate=lr)
            continue
        fields = {**_of_adapters(own), **frozen, "enabled": True, "target_modules": list(targets)}
        fields["trainable_modules"] = own.get("trainable_modules", [])
        try:
            resolve_targets(network, list(targets), fields["exclude_modules"])
        except UserError as error:
            left_out.append(f"{name}: {error}")
            continue
        found.append(Way(name, title, lora(**fields), NEW_RATES))
    if given is not None:
        # weights that are trained cannot be held in few bits
        title = f"full fine-tuning (no {kind})" if kind else "full fine-tuning"
        found.append(Way("full", title, None, FULL_RATES))
    # the configuration's own way first
    order = (found[0].name, "heads", "attention", "attention_mlp", "last", "full")
    return Ways(sorted(found, key=lambda way: order.index(way.name)), left_out)


def _as_given(own: dict[str, Any] | None, lr: float) -> Way:
    """Return the configuration's own way, with its rate in the middle."""
    rates = (round_rate(lr / STEP), lr, round_rate(lr * STEP))
    if own is None:
        return Way("full", "full fine-tuning", None, rates, given_rate=lr)
    config = {"class_path": LORA_CLASS, "init_args": own}
    if not own.get("enabled", True):
        return Way("given", "no adapters, as configured", config, rates, given_rate=lr)
    targets = own.get("target_modules") or LoRAConfig().target_modules
    return Way("given", f"LoRA on {', '.join(targets)}", config, rates, given_rate=lr)


def _of_adapters(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of its adapters, but for where they are."""
    kept = ("rank", "lora_alpha", "lora_dropout", "backend", "use_rslora", "use_dora", "loraplus_lr_ratio", "quantize")
    return {name: own[name] for name in kept if name in own}


def outside_of_backbone(network: Network) -> list[str]:
    """Return the topmost modules that are no part of a pre-trained backbone.

    A backbone is what the network numbers by layers, and each model of another library in which nothing is numbered.
    """
    # tied weights under all of their names
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    numbered = [name for name in names if network.depth_of(name) is not None]
    told = as_adaptable(network)
    inner = [path for path in told.inner_models if path and not any(is_inside(name, [path]) for name in numbered)]
    if not numbered and not inner:
        return list(told.new_modules)
    backbone = [name for name in names if name in numbered or is_inside(name, [*inner, *told.frozen_modules])]
    found: list[str] = []
    for path, module in network.named_modules():
        if path and not is_inside(path, found) and any(True for _ in module.parameters()):
            holds_backbone = any(name.startswith(f"{path}.") for name in backbone)
            found += [] if holds_backbone else [path]
    return found


def last_blocks(network: Network) -> list[str]:
    """Return the paths of the last quarter of a backbone's blocks, at least one; none where they are not numbered."""
    paths: dict[int, str] = {}
    for name, _ in network.named_parameters():
        depth = network.depth_of(name)
        numbered = re.match(r"(.*?\.\d+)\.", name)
        if depth and numbered:
            paths.setdefault(depth, numbered[1])
    blocks = [paths[depth] for depth in sorted(paths)]
    return blocks[-max(1, round(len(blocks) * LAST_SHARE)) :]


def chosen(ways: Sequence[Way], names: Sequence[str] | None) -> list[Way]:
    """Return the ways of given names; None takes all.

    Raises:
        UserError: There is none of a name.
    """
    if names is None:
        return list(ways)
    known = {way.name: way for way in ways} | {"given": next(way for way in ways if way.is_given)}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {listed(known)}"
            raise UserError(f"ways: {name!r} is no way of training this network; {hint}")
    wanted = {known[name].name for name in names}
    return [way for way in ways if way.name in wanted]
