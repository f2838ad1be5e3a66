"""The frozen base in 8 or 4 bits (QLoRA, arXiv:2305.14314): which layers are quantized, with adapters or without."""

from collections.abc import Mapping

from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_values
from eomt.lora.config import Adaptation
from eomt.lora.layers import LoRAAttention, LoRALinear
from eomt.lora.packed_weight import Original, PackedLinear, PackedWeight, pack, written
from eomt.lora.packing import Quantization
from eomt.lora.supported_layers import all_modules, refusal, shared_weights, unsuitable_reason
from eomt.lora.targets import block_lists, is_inside


class PackedLoRALinear(PackedWeight, LoRALinear):  # type: ignore[misc,override]
    """A linear layer with LoRA and a packed weight."""

    plain_class = LoRALinear

    def _stored_weight(self) -> Tensor:
        return self.packed

    def extra_repr(self) -> str:
        """Return the settings of the layer and of its adapter, for `print(model)`."""
        return f"{LoRALinear.extra_repr(self)}, {self.packing.kind}"


class PackedLoRAAttention(PackedWeight, LoRAAttention):  # type: ignore[misc,override]
    """A fused qkv projection with LoRA and a packed weight."""

    plain_class = LoRAAttention

    def _stored_weight(self) -> Tensor:
        return self.packed

    def extra_repr(self) -> str:
        """Return the settings of the layer, its slices and its adapter, for `print(model)`."""
        return f"{LoRAAttention.extra_repr(self)}, {self.packing.kind}"


CLASSES: dict[type, type[PackedWeight]] = {
    nn.Linear: PackedLinear,
    LoRALinear: PackedLoRALinear,
    LoRAAttention: PackedLoRAAttention,
}


def originals_of(model: nn.Module, plan: Adaptation) -> dict[str, Original | None]:
    """Return path -> original of each weight that a plan quantizes; nothing is changed yet.

    These are the linear layers of the model's numbered blocks, and all that are adapted. What is trained in full, heads
    and other layers outside of the blocks, embeddings, convolutions, and layers whose weight is shared, or read by
    something that does not call them, keep their weights.

    Args:
        model: A plain model.
        plan: What is about to be done to it.

    Raises:
        UserError: If there is no such layer, a weight has no values, or none that are finite, or the disk has no room.
    """
    kind = plan.config.quantize
    if kind is None:
        return {}
    modules, shared, blocks = all_modules(model), shared_weights(model), block_lists(model)
    weights: dict[str, Tensor] = {}
    for path, layer in model.named_modules():
        suits = path in plan.adapters or (type(layer) is nn.Linear and is_inside(path, blocks))
        if not isinstance(layer, nn.Linear) or not suits or is_inside(path, plan.trained_in_full):
            continue
        if unsuitable_reason(layer) is None and refusal(modules, path, shared) is None:
            weights[path] = layer.weight
    if not weights:
        raise UserError(f"quantize: {kind}, but the network has no frozen linear layer for it; set it to null")
    require_values(weights, "quantize")
    for path, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise UserError(f"quantize: the weight of {path!r} holds values that are not finite; load another base")
    return written(weights)


def quantize_base(model: nn.Module, kind: Quantization, originals: Mapping[str, Original | None]) -> None:
    """Quantize the weights of an adapted model, in place.

    Args:
        model: The model, with its adapters.
        kind: int8 or nf4.
        originals: What `originals_of` returned for it.
    """
    for path, original in originals.items():
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        pack(layer, CLASSES[type(layer)], kind, original)
