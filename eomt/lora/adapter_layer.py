"""What every adapted layer offers, whichever backend made it."""

import contextlib
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from eomt.errors import UserError

# While `record_calls` is active: the layers whose adapter ran. Kept inside `forward` because a hook would switch off
# the very fast paths (nn.TransformerEncoderLayer) that bypass an adapter.
_called: "set[AdapterLayer] | None" = None


class AdapterLayer(nn.Module):
    """A layer with a low-rank update W + (alpha / r) B A, this package's own or PEFT's.

    Attributes:
        weight: of the plain layer, frozen; `base_weight_name` is its name in the layer.
        lora_a, lora_b: A and B; B is zero at the start, except with PiSSA.
        adapter_enabled: false makes the layer answer as its base does.
    """

    weight: Tensor
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    adapter_enabled: bool
    base_weight_name: str
    # of each subclass: the change of `weight` that merging makes, in the adapters' dtype
    delta_weight: Callable[[], Tensor]
    # of each subclass: the plain layer, with the update merged in fp32 (true) or as the base has it (false)
    plain_layer: Callable[[bool], nn.Module]

    def adapter_tensors(self) -> dict[str, str]:
        """The trained tensors of the adapter: PEFT's name in a file -> name of the parameter in this layer."""
        return {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}

    def initial_pair(self) -> tuple[Tensor, Tensor] | None:
        """Return A and B that were taken out of the base weight at the start (PiSSA), None where nothing was."""
        return None

    @contextlib.contextmanager
    def original_weight_kept(self) -> Iterator[None]:
        """Keep the weight of the base as it came, whatever initial pair is read within."""
        yield

    def _adapter_runs(self) -> bool:
        if self.adapter_enabled and _called is not None:
            _called.add(self)
        return self.adapter_enabled


def lora_layers(model: nn.Module) -> dict[str, AdapterLayer]:
    """The adapted layers of `model` by module path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterLayer)}


def adapter_parameters(model: nn.Module) -> dict[str, str]:
    """Names of the adapters' parameters in `model` -> what they are: lora_A, lora_B, lora_magnitude_vector."""
    return {
        f"{path}.{name}" if path else name: kind.removesuffix(".weight")
        for path, layer in lora_layers(model).items()
        for kind, name in layer.adapter_tensors().items()
    }


def is_adapter_name(name: str) -> bool:
    """Whether a parameter or module belongs to an adapter, of this package or of PEFT: lora_a, lora_A.default, ..."""
    return any(part.startswith("lora_") for part in name.split("."))


def require_merged(network: nn.Module) -> None:
    """That `network` holds no adapters.

    Raises:
        UserError: naming one.
    """
    if layers := lora_layers(network):
        raise UserError(
            f"the network holds {len(layers)} adapters ({next(iter(layers))}, ...), which this layout has no place for;"
            " merge them first (merge_lora_weights)"
        )


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Puts `module` at the dotted `path` below `model`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@contextlib.contextmanager
def record_calls() -> Iterator[set[AdapterLayer]]:
    """Collects the layers whose adapter takes part in a forward pass."""
    global _called
    _called = set()
    try:
        yield _called
    finally:
        _called = None
