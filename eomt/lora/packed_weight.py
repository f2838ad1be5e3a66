"""Linear layers whose frozen weight is held in 8 or 4 bits, and the way back to the weights as they were."""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.packing import Packing, Quantization
from eomt.lora.product import packed_product
from eomt.utils.rank import rank

# weights start at multiples of it in a file, so that they can be read as what they are
ALIGNMENT = 64


class Original:
    """A weight before it was packed, in a temporary file that is mapped into memory: what is not read takes none.

    Copies of a network share it.

    Args:
        content: Its bytes.
        dtype: Type of its values.
        shape: Its shape.
    """

    def __init__(self, content: Tensor, dtype: torch.dtype, shape: torch.Size) -> None:
        self._content, self._dtype, self._shape = content, dtype, shape

    def __deepcopy__(self, _: Any) -> Self:
        return self

    def read(self) -> Tensor:
        """Return the weight."""
        return self._content.view(self._dtype).view(self._shape).clone()


class PackedWeight(nn.Module):
    """The part of a linear layer that holds its weight as bytes.

    Attributes:
        packed: The bytes, a parameter that is never trained: several processes need not agree on it in each step.
        packing: What they stand for.
        original: The weight before; None in processes that write nothing.
    """

    # the layer without packing
    plain_class: ClassVar[type[nn.Linear]]
    packed: nn.Parameter
    packing: Packing
    original: Original | None
    _dtype: torch.dtype

    @property
    def weight(self) -> Tensor:
        """The weight, (out, in), made anew each time; its type is that of the layer."""
        return self.packing.unpack(self.packed, self._dtype)

    def to_plain(self) -> None:
        """Become the layer that this was, with its weight as it was, bit for bit.

        Raises:
            UserError: If this process does not hold it.
        """
        if self.original is None:
            raise UserError("quantize: the weights before are with the first process alone; merge there")
        weight = self.original.read().to(self.packed.device, self._dtype)
        others = {name: value for name, value in self._parameters.items() if name != "packed"}
        for name in ("packing", "original", "_dtype"):
            delattr(self, name)
        self.__class__ = self.plain_class  # type: ignore[assignment]
        self._parameters = {"weight": nn.Parameter(weight, requires_grad=False), **others}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # bytes are moved and never cast; a cast is one of what they stand for
        super()._apply(fn, recurse)
        self._dtype = fn(torch.empty(0, dtype=self._dtype)).dtype
        return self


class PackedLinear(PackedWeight, nn.Linear):  # type: ignore[override]
    """A frozen linear layer with a packed weight: y = W x + b."""

    plain_class = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., in_features) to (..., out_features)."""
        return packed_product(x, self.packed, self.bias, self.packing)

    def extra_repr(self) -> str:
        """Return the settings of the layer, for `print(model)`."""
        return f"{nn.Linear.extra_repr(self)}, {self.packing.kind}"


def written(weights: Mapping[str, Tensor]) -> dict[str, Original | None]:
    """Return weights as they are kept in a file without a name, which is gone with the last of them.

    The first process alone writes them: it is the one that merges.

    Raises:
        UserError: If the disk has no room.
    """
    if rank() != 0:
        return dict.fromkeys(weights)
    places = {}
    try:
        # held open by what is mapped
        file = tempfile.TemporaryFile()  # noqa: SIM115
        for path, weight in weights.items():
            content = weight.detach().cpu().contiguous().flatten().view(torch.uint8)
            places[path] = (file.tell(), content.numel(), weight.dtype, weight.shape)
            file.write(content.numpy().data)
            file.write(bytes(-file.tell() % ALIGNMENT))
        file.flush()
    except OSError as error:
        raise UserError(
            f"quantize: {tempfile.gettempdir()}: {error.strerror}: no room for the weights before, with which adapters "
            "are merged; name another folder in the environment variable TMPDIR"
        ) from error
    # private, so that torch takes it as its own
    content = torch.from_numpy(np.memmap(file, np.uint8, mode="c"))
    return {
        path: Original(content[start : start + size], dtype, shape)
        for path, (start, size, dtype, shape) in places.items()
    }


def pack(layer: nn.Linear, packed_class: type[PackedWeight], kind: Quantization, original: Original | None) -> None:
    """Let a linear layer hold its weight as bytes, in place.

    Args:
        layer: The layer.
        packed_class: Class that it becomes.
        kind: int8 or nf4.
        original: Its weight in a file.
    """
    held: Any = layer
    weight = held._parameters.pop("weight")
    held.__class__ = packed_class
    held.packing = Packing(kind, tuple(weight.shape))
    held.original, held._dtype = original, weight.dtype
    held.packed = nn.Parameter(held.packing.pack(weight), requires_grad=False)


def packed_layers(model: nn.Module) -> dict[str, PackedWeight]:
    """Return the layers of `model` with a packed weight: path -> layer."""
    return {path: module for path, module in model.named_modules() if isinstance(module, PackedWeight)}


def quantization(model: nn.Module) -> Quantization | None:
    """Return how the base of `model` is quantized; None if it is not."""
    return next((layer.packing.kind for layer in packed_layers(model).values()), None)


def unquantize(model: nn.Module) -> nn.Module:
    """Give `model` the weights from before they were quantized, in place, and return it.

    Raises:
        UserError: If this process does not hold them.
    """
    for layer in packed_layers(model).values():
        layer.to_plain()
    return model


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Return the number of values of each parameter; a packed weight is counted under the name that it had."""
    layers = {f"{path}.packed" if path else "packed": layer for path, layer in packed_layers(model).items()}
    counts = {}
    for name, parameter in model.named_parameters():
        layer = layers.get(name)
        counts[f"{name.removesuffix('packed')}weight" if layer else name] = (
            layer.packing.numel if layer else parameter.numel()
        )
    return counts


def quantization_line(model: nn.Module) -> str | None:
    """Return a line that says what is quantized, and the bytes of it before and after; None if nothing is."""
    layers = packed_layers(model).values()
    if not layers:
        return None
    before = sum(layer.packing.numel * layer._dtype.itemsize for layer in layers)
    after = sum(layer.packed.numel() for layer in layers)
    return (
        f"Quantized: {quantization(model)}, {len(layers)} frozen linear layers, {before / 1e6:,.1f} MB before and "
        f"{after / 1e6:,.1f} MB now"
    )
