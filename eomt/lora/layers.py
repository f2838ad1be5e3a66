"""LoRA layers: a frozen layer W plus a trained low-rank update, W + (alpha / r) B A (Hu et al., arXiv:2106.09685).

Each class derives from the layer that it replaces and keeps the names of its parameters (`weight`, `bias`): a state
dict of the plain network loads into the adapted one, and only `lora_*` is missing.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError, listed
from eomt.lora.adapter_layer import (
    AdapterLayer,
    forget_calls,
    lora_layers,
    require_called,
    require_values,
    set_module,
)
from eomt.lora.adapter_layer import count_lora_parameters as count_lora_parameters
from eomt.lora.adapter_layer import disable_adapters as disable_adapters
from eomt.lora.adapter_layer import freeze_lora_params as freeze_lora_params
from eomt.lora.config import check_alpha, check_dropout, check_rank, record
from eomt.lora.dropout import DroppedConvolution, draw_seed
from eomt.lora.packed_weight import unquantize
from eomt.lora.packing import Packing
from eomt.lora.product import Update, adapted_product, dtype_of, is_transformed
from eomt.lora.supported_layers import all_modules, is_quantized, refusal, shared_weights, unsuitable_reason
from eomt.utils.arguments import checked_arguments

SLICES = ("query", "key", "value")


class LoRALayer(AdapterLayer):
    """Base class of this package's three layers: `lora_a`, `lora_b`, `scaling`, merging."""

    base_weight_name = "weight"
    bias: Any
    # how the weight is packed; None where it is not
    packing: Packing | None = None
    # a method that each subclass defines: returns a plain layer of the same shape, without values
    _empty_plain_layer: Callable[[], nn.Module]

    def _add_adapter(
        self, a_shape: tuple[int, ...], b_shape: tuple[int, ...], rank: int, alpha: float, dropout: float, rslora: bool
    ) -> None:
        check_rank(rank)
        check_alpha(alpha)
        check_dropout(dropout)
        self.rank, self.lora_alpha, self.lora_dropout, self.use_rslora = rank, alpha, dropout, rslora
        self.adapter_enabled = True
        # fp32 whatever the base: B starts at zero and its first steps are below the resolution of bf16
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        self.lora_a = nn.Parameter(torch.empty(a_shape, dtype=dtype, device=self.weight.device))
        self.lora_b = nn.Parameter(torch.empty(b_shape, dtype=dtype, device=self.weight.device))
        self.weight.requires_grad_(False)
        self.reset_adapter()

    @property
    def scaling(self) -> float:
        """Factor of the update: alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732)."""
        return self.lora_alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    @property
    def factor(self) -> float:  # type: ignore[override]
        """The same under the name that layers of both backends have."""
        return self.scaling

    def reset_adapter(self) -> None:
        """Initialize A as nn.Linear does its weight and B with zeros: the layer starts equal to the plain one."""
        for a in self.lora_a.data if self.lora_a.dim() == 3 else [self.lora_a.data]:
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b)

    def plain_layer(self, merge: bool) -> nn.Module:
        """Return a layer of the base class, with the update added in fp32 if `merge`, else with the base weight."""
        plain = self._empty_plain_layer()
        plain.weight, plain.bias = self.weight, self.bias
        if merge:
            with torch.no_grad(), torch.autocast(self.weight.device.type, enabled=False):
                merged = (self.weight.to(self.lora_a.dtype) + self.delta_weight()).to(self.weight.dtype)
            plain.weight = nn.Parameter(merged, requires_grad=False)
        return plain.train(self.training)

    def _product(self, x: Tensor, update: Update) -> Tensor:
        weight = self._stored_weight()
        return adapted_product(x, weight, self.bias, self.lora_a, self.lora_b, update, self.packing)

    def _stored_weight(self) -> Tensor:
        return self.weight

    def _update(self, slices: list[int] | None = None) -> Update:
        return Update(self.scaling, self.lora_dropout if self.training else 0.0, slices)

    def adapter_repr(self) -> str:
        """Return the settings of the adapter, for `extra_repr`."""
        return f"rank={self.rank}, lora_alpha={self.lora_alpha}, lora_dropout={self.lora_dropout}"


class LoRALinear(LoRALayer, nn.Linear):
    """A linear layer with LoRA: y = W x + b + (alpha / r) B A dropout(x).

    Attributes:
        weight: Weight of the plain layer, (out_features, in_features), frozen.
        bias: Bias of the plain layer, (out_features,), or None.
        lora_a: A, (r, in_features).
        lora_b: B, (out_features, r), zero at the start.

    Raises:
        UserError: If the rank is below 1, alpha not above 0, or the dropout outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.1,
        bias: bool = True,
        use_rslora: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias=bias, device=device, dtype=dtype)
        self._add_adapter((rank, in_features), (out_features, rank), rank, lora_alpha, lora_dropout, use_rslora)

    @classmethod
    def from_layer(cls, layer: nn.Linear, **adapter: Any) -> Self:
        """Return the adapted form of `layer`, which shares its parameters."""
        adapted = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta", **adapter)
        return _share_parameters(adapted, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        if not self._adapter_runs():
            return F.linear(x, self.weight, self.bias)
        return self._product(x, self._update())

    def delta_weight(self) -> Tensor:
        """Return the update s B A, (out_features, in_features)."""
        return self.lora_b @ self.lora_a * self.scaling

    def _empty_plain_layer(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")

    def extra_repr(self) -> str:
        """Return the settings of the layer and of its adapter, for `print(model)`."""
        return f"{nn.Linear.extra_repr(self)}, {self.adapter_repr()}"


class LoRAAttention(LoRALayer, nn.Linear):
    """A fused qkv projection with one update per chosen slice.

    The output holds query, key and value one after the other, each `out_features // 3` wide, as in timm and SAM2.

    Attributes:
        slices: Those of query, key and value that are adapted, k of them.
        lora_a: A of each slice, (k, r, in_features).
        lora_b: B of each slice, (k, out_features // 3, r), zero at the start.

    Raises:
        UserError: If the width is no multiple of 3, a slice is unknown, the rank is below 1, alpha is not above 0, or
            the dropout is outside [0, 1).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.1,
        slices: tuple[str, ...] = SLICES,
        bias: bool = True,
        use_rslora: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if out_features % 3:
            raise UserError(f"out_features: {out_features} is no multiple of 3; a fused qkv has three equal parts")
        if not slices or set(slices) - set(SLICES):
            raise UserError(f"slices: {listed(slices)}; must be some of {', '.join(SLICES)}")
        nn.Linear.__init__(self, in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.slices = tuple(name for name in SLICES if name in slices)
        k = len(self.slices)
        self._add_adapter(
            (k, rank, in_features), (k, out_features // 3, rank), rank, lora_alpha, lora_dropout, use_rslora
        )

    @classmethod
    def from_layer(cls, layer: nn.Linear, **adapter: Any) -> Self:
        """Return the adapted form of `layer`, which shares its parameters."""
        adapted = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta", **adapter)
        return _share_parameters(adapted, layer)

    @property
    def slice_indices(self) -> list[int]:
        """Places of the adapted slices among query, key and value: 0, 1, 2."""
        return [SLICES.index(name) for name in self.slices]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        if not self._adapter_runs():
            return F.linear(x, self.weight, self.bias)
        return self._product(x, self._update(self.slice_indices))

    def delta_weight(self) -> Tensor:
        """Return the update, (out_features, in_features): s B A in each adapted slice, zero in the others."""
        delta = self.lora_a.new_zeros(3, self.out_features // 3, self.in_features)
        delta[self.slice_indices] = torch.bmm(self.lora_b, self.lora_a) * self.scaling
        return delta.flatten(0, 1)

    def _empty_plain_layer(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")

    def extra_repr(self) -> str:
        """Return the settings of the layer, its slices and its adapter, for `print(model)`."""
        return f"{nn.Linear.extra_repr(self)}, slices={self.slices}, {self.adapter_repr()}"


class LoRAConv2d(LoRALayer, nn.Conv2d):
    """A 2-D convolution with LoRA: A is a convolution like the base (same stride, padding, dilation), B is 1 x 1.

    Attributes:
        lora_a: A, (r, in_channels, kh, kw).
        lora_b: B, (out_channels, r, 1, 1), zero at the start.

    Raises:
        UserError: If groups is not 1 (the update of a grouped convolution has no such form), the rank is below 1,
            alpha is not above 0, or the dropout is outside [0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        rank: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.1,
        use_rslora: bool = False,
        **convolution: Any,
    ) -> None:
        nn.Conv2d.__init__(self, in_channels, out_channels, kernel_size, **convolution)
        if self.groups != 1:
            raise UserError(f"groups: {self.groups}; LoRA adapts convolutions with groups=1 only")
        self._add_adapter(
            (rank, in_channels, *self.kernel_size),
            (out_channels, rank, 1, 1),
            rank,
            lora_alpha,
            lora_dropout,
            use_rslora,
        )

    @classmethod
    def from_layer(cls, layer: nn.Conv2d, **adapter: Any) -> Self:
        """Return the adapted form of `layer`, which shares its parameters."""
        return _share_parameters(cls(**_convolution_arguments(layer), device="meta", **adapter), layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, in_channels, H, W) to (B, out_channels, H', W')."""
        # once for both convolutions, so that autograd keeps one copy
        x = x.to(dtype_of(x))
        y = self._conv_forward(x, self.weight, self.bias)
        if not self._adapter_runs():
            return y
        h = self._projected(x) * self.scaling
        return y + F.conv2d(h, self.lora_b.to(h.dtype))

    def _projected(self, x: Tensor) -> Tensor:
        """Return the convolution of dropout(x) with A."""
        dropout = self.lora_dropout if self.training else 0
        a = self.lora_a.to(x.dtype)
        if not dropout or is_transformed():
            return self._conv_forward(F.dropout(x, dropout), a, None)
        with torch.autocast(x.device.type, enabled=False):
            return DroppedConvolution.apply(x, a, partial(self._conv_forward, bias=None), dropout, draw_seed())

    def delta_weight(self) -> Tensor:
        """Return the update, (out_channels, in_channels, kh, kw): B's 1 x 1 kernels mix those of A."""
        return (self.lora_b.flatten(1) @ self.lora_a.flatten(1)).view(self.weight.shape) * self.scaling

    def _empty_plain_layer(self) -> nn.Conv2d:
        return nn.Conv2d(**_convolution_arguments(self), device="meta")

    def extra_repr(self) -> str:
        """Return the settings of the convolution and of its adapter, for `print(model)`."""
        return f"{nn.Conv2d.extra_repr(self)}, {self.adapter_repr()}"


def _convolution_arguments(layer: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {**{name: getattr(layer, name) for name in names}, "bias": layer.bias is not None}


def _share_parameters(adapted: Any, layer: nn.Module) -> Any:
    """Give `adapted`, built on the meta device, the parameters of `layer` and an adapter on its device; return it."""
    adapted.weight, adapted.bias = layer.weight, layer.bias
    adapted.weight.requires_grad_(False)
    dtype = torch.promote_types(adapted.weight.dtype, torch.float32)
    for name in ("lora_a", "lora_b"):
        shape = getattr(adapted, name).shape
        setattr(adapted, name, nn.Parameter(torch.empty(shape, dtype=dtype, device=adapted.weight.device)))
    adapted.reset_adapter()
    return adapted.train(layer.training)


@checked_arguments
def replace_linear_with_lora(
    module: nn.Module, rank: int = 8, lora_alpha: float = 16, lora_dropout: float = 0.1
) -> nn.Module:
    """Adapt every linear layer in `module`, in place, and return it; return the adapted layer if it is one itself.

    Raises:
        UserError: If an argument is not of its type or range, LoRA cannot adapt a layer, or its adapter would be
            bypassed; nothing is changed then.
    """
    modules, shared = all_modules(module), shared_weights(module)
    linear = {
        path: layer
        for path, layer in modules.items()
        if isinstance(layer, nn.Linear) and not isinstance(layer, AdapterLayer)
    }
    for path, layer in linear.items():
        if reason := unsuitable_reason(layer) or refusal(modules, path, shared):
            name = repr(path) if path else "the layer"
            raise UserError(
                f"replace_linear_with_lora: {name} cannot be adapted: {reason}; use apply_lora, which adapts by name"
            )
    for path, layer in linear.items():
        adapted = LoRALinear.from_layer(layer, rank=rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout)
        if not path:
            return adapted
        set_module(module, path, adapted)
    return module


@checked_arguments
def merge_lora_weights(model: nn.Module, check_called: bool = True) -> nn.Module:
    """Add every update to its base weight in fp32, in place, and return the model with plain layers.

    Args:
        model: An adapted model.
        check_called: Refuse an adapter that was never called though the model ran.

    Raises:
        UserError: If an argument is not of its type, or the model holds no adapter, as after merging, or one that
            merging would let act for the first time.
    """
    if check_called:
        require_called(model, "merge_lora_weights")
    for path, layer in lora_layers(model).items():
        require_values({f"{path}.{name}": value for name, value in layer.named_parameters()}, "merge_lora_weights")
        if is_quantized(layer.weight):
            raise UserError(
                f"merge_lora_weights: the weight of {path!r} is quantized or sharded ({type(layer.weight).__name__}); "
                "save_adapter, and merge where the network is in floating point"
            )
    return _to_plain(model, merge=True)


@checked_arguments
def remove_adapters(model: nn.Module) -> nn.Module:
    """Remove the adapters, in place, and return the model: the base again, bit for bit (after PiSSA up to rounding).

    Raises:
        UserError: If the model is no module or holds no adapter.
    """
    return _to_plain(model, merge=False)


def _to_plain(model: nn.Module, merge: bool) -> nn.Module:
    layers = lora_layers(model)
    if not layers:
        raise UserError("model: holds no LoRA adapters, so there is nothing to merge or remove; was it merged already?")
    for module in model.modules():
        # the record of apply_lora no longer holds, and would prevent adapting again
        record(module, None)
        forget_calls(module)
    # what is merged is the weight from before it was quantized
    unquantize(model)
    if isinstance(model, AdapterLayer):
        return model.plain_layer(merge)
    for path, layer in layers.items():
        set_module(model, path, layer.plain_layer(merge))
    return model
