"""The base class of all adapted layers, whichever backend they come from: found, counted and switched in a model."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.packed_weight import packed_layers
from eomt.utils.arguments import checked_arguments

# the layers whose adapter ran, while `record_calls` is active; noted in `forward`, since a hook would switch off the
# fast path of nn.TransformerEncoderLayer, which bypasses adapters
_called: "set[AdapterLayer] | None" = None


class AdapterLayer(nn.Module):
    """A layer with a low-rank update W + (alpha / r) B A, this package's own or PEFT's.

    Attributes:
        weight: Weight of the plain layer, frozen.
        base_weight_name: Name of that weight in this layer.
        lora_a: A.
        lora_b: B; zero at the start, except with PiSSA.
        factor: alpha / r, or alpha / sqrt(r) with rsLoRA.
        adapter_enabled: Whether the update is added; False makes the layer answer as its base does.
        was_called: Whether `forward` was ever called.
        delta_weight: Returns the change of `weight` that merging makes, in the adapters' dtype.
        plain_layer: Returns the plain layer, with the update merged in fp32 (True) or with the base weight (False).
    """

    weight: Tensor
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    factor: float
    adapter_enabled: bool
    was_called: bool = False
    base_weight_name: str
    # methods that each subclass defines
    delta_weight: Callable[[], Tensor]
    plain_layer: Callable[[bool], nn.Module]

    def adapter_tensors(self) -> dict[str, str]:
        """Return the trained tensors of the adapter: PEFT's name in a file -> name of the parameter in this layer."""
        return {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}

    def initial_pair(self) -> tuple[Tensor, Tensor] | None:
        """Return the A and B that PiSSA subtracted from the base weight at the start; None without PiSSA."""
        return None

    @contextlib.contextmanager
    def original_weight_kept(self) -> Iterator[None]:
        """Keep the original base weight while another initial pair is loaded within; without PiSSA nothing is done."""
        yield

    def _adapter_runs(self) -> bool:
        self.was_called = True
        if self.adapter_enabled and _called is not None:
            _called.add(self)
        return self.adapter_enabled


def lora_layers(model: nn.Module) -> dict[str, AdapterLayer]:
    """Return the adapted layers of `model`: path -> layer."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdapterLayer)}


def adapter_parameters(model: nn.Module) -> dict[str, str]:
    """Return name -> kind (lora_A, lora_B, lora_magnitude_vector) of the adapters' parameters in `model`."""
    return {
        f"{path}.{name}" if path else name: kind.removesuffix(".weight")
        for path, layer in lora_layers(model).items()
        for kind, name in layer.adapter_tensors().items()
    }


@checked_arguments
def freeze_lora_params(model: nn.Module) -> None:
    """Freeze everything that is not LoRA, so that only the adapters are trained (the name is the guide's).

    Raises:
        UserError: If the model is no module.
    """
    adapters = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in adapters)


@checked_arguments
def count_lora_parameters(model: nn.Module) -> int:
    """Return the number of values in all adapters of `model`.

    Raises:
        UserError: If the model is no module.
    """
    return sum(model.get_parameter(name).numel() for name in adapter_parameters(model))


def is_adapter_name(name: str) -> bool:
    """Return whether a name is that of an adapter's parameter or module, as lora_a here or lora_A.default in PEFT."""
    return any(part.startswith("lora_") for part in name.split("."))


def note_calls(model: nn.Module) -> None:
    """Let `model` note that it ran, so that `require_called` can tell adapters that never do."""
    model.register_forward_hook(_note_call)


def _note_call(module: nn.Module, *_: Any) -> None:
    # on the module itself: a replica of DataParallel notes its own calls, as its layers do
    vars(module)["was_called"] = True


def forget_calls(model: nn.Module) -> None:
    """Undo `note_calls`."""
    vars(model).pop("was_called", None)
    for key in [key for key, hook in model._forward_hooks.items() if hook is _note_call]:
        del model._forward_hooks[key]


def require_called(model: nn.Module, function: str) -> None:
    """Check that each adapter was called, if the model or any other adapter was.

    What reads the weight of a layer instead of calling it leaves the adapter out; merged, it would have an effect for
    the first time.

    Args:
        model: Any module.
        function: Name of the caller, for the message.

    Raises:
        UserError: If an adapter was never called.
    """
    layers = lora_layers(model)
    silent = [path for path, layer in layers.items() if not layer.was_called]
    if silent and (len(silent) < len(layers) or vars(model).get("was_called", False)):
        raise UserError(
            f"{function}: the adapter of {silent[0]!r} was never called though the network ran ({len(silent)} of "
            f"{len(layers)}): it has no effect; put it into exclude_modules (check_called=False overrides)"
        )


def require_values(tensors: Mapping[str, Tensor], function: str) -> None:
    """Check that no tensor is on the meta device, where it has no values.

    Args:
        tensors: Name -> tensor.
        function: Name of the caller, for the message.

    Raises:
        UserError: If one is; the message names it.
    """
    if empty := [name for name, value in tensors.items() if value.is_meta]:
        raise UserError(
            f"{function}: {empty[0]!r} has no values here (meta device; offloaded by accelerate?); load the network "
            "onto a CPU or GPU first (accelerate.hooks.remove_hook_from_submodules)"
        )


def require_gradients(tensors: Mapping[str, Tensor], function: str) -> None:
    """Check that no tensor was made in torch.inference_mode, after which autograd refuses it.

    Args:
        tensors: Name -> tensor.
        function: Name of the caller, for the message.

    Raises:
        UserError: If one was; the message names it.
    """
    if made := [name for name, value in tensors.items() if value.is_inference()]:
        raise UserError(
            f"{function}: {made[0]!r} was made in torch.inference_mode, and can have no gradient; make it outside, or "
            "under torch.no_grad"
        )


def require_merged(network: nn.Module) -> None:
    """Check that `network` holds no adapters and no quantized weights.

    Raises:
        UserError: If it holds one; the message names it.
    """
    if layers := lora_layers(network):
        raise UserError(
            f"network: holds {len(layers)} adapters ({next(iter(layers))}, ...), for which this file format has no "
            "place; merge them first (merge_lora_weights)"
        )
    if packed := packed_layers(network):
        raise UserError(
            f"network: holds {len(packed)} quantized layers ({next(iter(packed))}, ...), for which this file format "
            "has no place; give their weights back first (eomt.lora.packed_weight.unquantize)"
        )


def set_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put `module` at the dotted `path` in `model`."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


@contextlib.contextmanager
def record_calls() -> Iterator[set[AdapterLayer]]:
    """Collect the layers whose adapter runs in a forward pass within."""
    global _called
    _called = set()
    try:
        yield _called
    finally:
        _called = None


@checked_arguments
@contextlib.contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Let the adapted model answer as its base does, within.

    Raises:
        UserError: If the model is no module.
    """
    layers = [layer for layer in lora_layers(model).values() if layer.adapter_enabled]
    for layer in layers:
        layer.adapter_enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.adapter_enabled = True
