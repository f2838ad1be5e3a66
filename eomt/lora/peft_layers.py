"""The backend peft: PEFT's layers in place of this package's, at exactly the paths that targets resolve to.

Imported only for `backend: peft`, since PEFT is an optional dependency.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Conv2d, Linear
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer, lora_layers
from eomt.lora.supported_layers import peft_reason

# PEFT's own name for the only adapter of a network
NAME = "default"
# buffers of PiSSA only: the pair that training starts from, which was subtracted from the base weight
INITIAL_PAIR = ("initial_a", "initial_b")


class PEFTLayer(AdapterLayer):
    """An adapted layer of PEFT, with what this package expects of an AdapterLayer."""

    base_weight_name = "base_layer.weight"
    # attributes of PEFT's layers
    base_layer: Any
    lora_A: nn.ModuleDict  # noqa: N815
    lora_B: nn.ModuleDict  # noqa: N815
    lora_magnitude_vector: nn.ModuleDict
    scaling: dict[str, float]

    def adapter_tensors(self) -> dict[str, str]:
        """Return the tensors under PEFT's names, with the lengths of DoRA where they are trained."""
        names = {f"{part}.weight": f"{part}.{NAME}.weight" for part in ("lora_A", "lora_B")}
        if NAME in self.lora_magnitude_vector:
            names["lora_magnitude_vector"] = f"lora_magnitude_vector.{NAME}.weight"
        return names

    @property
    def lora_a(self) -> nn.Parameter:  # type: ignore[override]
        """A, (r, in_features) or (r, in_channels, kh, kw)."""
        return self.lora_A[NAME].weight  # type: ignore[return-value]

    @property
    def lora_b(self) -> nn.Parameter:  # type: ignore[override]
        """B, (out_features, r) or (out_channels, r, 1, 1)."""
        return self.lora_B[NAME].weight  # type: ignore[return-value]

    @property
    def factor(self) -> float:  # type: ignore[override]
        """Factor of the update."""
        return self.scaling[NAME]

    @property
    def adapter_enabled(self) -> bool:
        """Whether the update is added; PEFT's flag says the opposite."""
        return not self._disable_adapters

    @adapter_enabled.setter
    def adapter_enabled(self, enabled: bool) -> None:
        # PEFT's own method would change requires_grad too
        self._disable_adapters = not enabled

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) or (B, in_channels, H, W) as the plain layer does, with the update."""
        runs = self._adapter_runs()
        y = super().forward(x)
        if not runs and (pair := self.initial_pair()):
            # the base answers with the weight that it had before PiSSA
            a, b = (tensor.to(x.dtype) for tensor in pair)
            y = y + F.linear(F.linear(x, a) * self.scaling[NAME], b)
        return y

    def delta_weight(self) -> Tensor:
        """Return what PEFT's merging adds to its base weight, which with PiSSA is the residual."""
        return self._merged_weight() - self.base_layer.weight

    def plain_layer(self, merge: bool) -> nn.Module:
        """Return PEFT's base layer, with the update merged in fp32 if `merge`, else with its original weight."""
        plain = self.base_layer
        if merge or self.initial_pair():
            with torch.no_grad(), torch.autocast(plain.weight.device.type, enabled=False):
                weight = self._merged_weight() if merge else self.original_weight()
            plain.weight = nn.Parameter(weight.to(plain.weight.dtype), requires_grad=False)
        return plain.train(self.training)

    def _merged_weight(self) -> Tensor:
        """Return W with the update, in the adapters' dtype; PEFT itself would merge in the dtype of W."""
        merged = copy.deepcopy(self).to(self.lora_a.dtype)
        merged.merge(safe_merge=True, adapter_names=[NAME])  # type: ignore[operator]
        return merged.base_layer.weight

    # -- PiSSA: while the adapter trains, the base weight is a residual ------------------------------------------------

    def keep_initial_pair(self, weight: Tensor) -> None:
        """Keep the pair that PiSSA starts from, and make the base the exact residual of the original `weight`.

        PEFT computes both in fp32 and rounds the pair to the dtype of the base afterwards, so that they do not add up.
        """
        self.register_buffer(INITIAL_PAIR[0], self.lora_a.detach().clone())
        self.register_buffer(INITIAL_PAIR[1], self.lora_b.detach().clone())
        self._take_out_initial_pair(weight)

    def initial_pair(self) -> tuple[Tensor, Tensor] | None:
        """Return the A and B that were subtracted from the base weight; None without PiSSA."""
        buffers = dict(self.named_buffers(recurse=False))
        return (buffers[INITIAL_PAIR[0]], buffers[INITIAL_PAIR[1]]) if INITIAL_PAIR[0] in buffers else None

    @contextlib.contextmanager
    def original_weight_kept(self) -> Iterator[None]:
        """Keep the original weight within: afterwards the base is its residual for the pair that was loaded."""
        if self.initial_pair() is None:
            yield
            return
        weight = self.original_weight()
        yield
        self._take_out_initial_pair(weight)

    def original_weight(self) -> Tensor:
        """Return the base weight as it was before PiSSA, in the adapters' dtype, up to rounding."""
        return self.base_layer.weight + self._initial_update()

    def _take_out_initial_pair(self, weight: Tensor) -> None:
        """Make the base weight the residual of the original `weight`."""
        with torch.no_grad():
            self.base_layer.weight.copy_(weight - self._initial_update())

    def _initial_update(self) -> Tensor:
        pair = self.initial_pair()
        assert pair is not None
        return pair[1] @ pair[0] * self.scaling[NAME]


class PEFTLinear(PEFTLayer, Linear):
    """PEFT's adapted linear layer."""


class PEFTConv2d(PEFTLayer, Conv2d):
    """PEFT's adapted 2-D convolution."""


def inject_layers(model: nn.Module, layers: dict[str, nn.Module], config: dict[str, Any], pissa: bool) -> None:
    """Replace `layers` of `model` by PEFT's adapted ones, in place.

    Args:
        model: A plain model.
        layers: Path -> layer.
        config: PEFT's fields for them, see `peft_format.peft_settings`.
        pissa: Start from the principal singular vectors of each weight (arXiv:2404.02948).

    Raises:
        UserError: If PEFT cannot adapt a layer, or its adapter would compute something else.
    """
    for path, layer in layers.items():
        if reason := _refusal(path, layer, pissa):
            raise UserError(f"backend: peft cannot adapt {path!r}: {reason}")
    names = ("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
    settings = LoraConfig(
        target_modules="|".join(f"({path_pattern(path)})" for path in layers),
        init_lora_weights="pissa" if pissa else True,
        **{name: config[name] for name in names},
    )
    settings._register_custom_module({nn.Linear: PEFTLinear, nn.Conv2d: PEFTConv2d})
    originals = {path: layer.get_parameter("weight").detach().clone() for path, layer in layers.items() if pissa}
    inject_adapter_in_model(settings, model, adapter_name=NAME)
    # PEFT's record for models with several adapters, which this package does not use
    del model.peft_config
    for path, adapted in lora_layers(model).items():
        assert isinstance(adapted, PEFTLayer)
        for part in (adapted.lora_A, adapted.lora_B, adapted.lora_magnitude_vector):
            # PEFT makes them in the dtype of the base: B starts at zero, below the resolution of bf16
            part.to(torch.promote_types(adapted.weight.dtype, torch.float32))
        if pissa:
            adapted.keep_initial_pair(originals[path])


def path_pattern(path: str) -> str:
    """Return a regular expression for one path."""
    return path.replace(".", r"\.")


def _refusal(path: str, layer: nn.Module, pissa: bool) -> str | None:
    if not path:
        return "it is the network itself; adapt the module that holds it"
    if reason := peft_reason(layer):
        return f"{reason}; use backend: native"
    if pissa and not isinstance(layer, nn.Linear):
        return "init_lora_weights: pissa is for linear layers; put this one into exclude_modules"
    if pissa and layer.get_parameter("weight").dtype == torch.float64:
        return "init_lora_weights: pissa takes weights of 16 or 32 bits; set it to default"
    return None
