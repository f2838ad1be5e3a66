"""Memory at the peak of a training step, found by running small ones."""

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from eomt.models.network import Network
from eomt.utils.modes import isolated_randomness, training_mode
from eomt.verification.audit import untouched

Step = Callable[[dict[str, Any]], Tensor]


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes at the peak of a training step; Python and its libraries come on top.

    Attributes:
        weights: parameters and buffers.
        gradients: of what is trained.
        optimizer_states: the two averages of AdamW.
        activations: whatever else lives at the peak: the batch, what autograd keeps, temporaries.
    """

    weights: int
    gradients: int
    optimizer_states: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer_states + self.activations


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations within it make, as long as anything (autograd too) holds them.

    Attributes:
        peak: the most that lived at once since the start, or since `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Forgets the peak, not what lives."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # what an operation only passes on or changes in place was there before, or is counted already
        given = {value.untyped_storage()._cdata for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_iter(result):
            if isinstance(value, Tensor) and value.untyped_storage()._cdata not in given:
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class CudaBytes(contextlib.AbstractContextManager["CudaBytes"]):
    """The same from the counters of the CUDA allocator, which know the workspaces inside operations too."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> Self:
        self._before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def restart(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) - self._before


def training_memory(
    model: nn.Module,
    step: Step,
    batch: dict[str, Any],
    batch_size: int,
    forward_context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> TrainingMemory:
    """Return the peak memory of training with AdamW, from steps on one and two samples, continued in a straight line.

    Weights, gradients, buffers, metrics and random states are afterwards what they were.

    Args:
        model: With all that is trained.
        step: Returns the loss of a batch as training computes it, and leaves nothing behind but its graph.
        batch: Of at least two samples, or one if `batch_size` is 1, on the device of the model.
        batch_size: Of training.
        forward_context: Of the precision, around the forward pass.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = _bytes(trained)
    sizes = (1, 2) if batch_size > 1 else (1,)
    peaks = [step_peaks(model, step, first_samples(batch, size), forward_context) for size in sizes]
    # each phase is a straight line of its own; their largest is not
    in_step = max(phase[0] + (phase[-1] - phase[0]) * (batch_size - 1) for phase in zip(*peaks, strict=True))
    inputs = _bytes(tree_iter(first_samples(batch, 1))) * batch_size
    # AdamW's square root of the second average: of all tensors at once on CUDA, of one at a time (twice) elsewhere
    largest = max((_bytes([parameter]) for parameter in trained), default=0)
    in_optimizer = gradients + (gradients if _device_of(model).type == "cuda" else 2 * largest)
    return TrainingMemory(
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=gradients,
        optimizer_states=2 * gradients,
        activations=max(in_step, in_optimizer) - gradients + inputs,
    )


def step_peaks(
    model: nn.Module,
    step: Step,
    batch: dict[str, Any],
    forward_context: Callable[[], AbstractContextManager[Any]],
) -> tuple[int, int]:
    """Return the bytes that a step holds at the peak of its forward and of its backward pass, gradients included."""
    gc.collect()
    device = _device_of(model)
    meter = CudaBytes(device) if device.type == "cuda" else LiveBytes()
    eager = torch.compiler.set_stance("force_eager")
    with (
        isolated_randomness(),
        untouched(model),
        training_mode(model),
        eager,
        torch.enable_grad(),
        meter,
    ):
        for parameter in model.parameters():
            if parameter.requires_grad:
                # those of the step before: Lightning lets them go only after the forward pass
                parameter.grad = torch.zeros_like(parameter)
        meter.restart()
        with forward_context():
            loss = step(batch)
        forward = meter.peak
        model.zero_grad()
        meter.restart()
        # a loss that depends on nothing trained is for the audit to tell
        if loss.requires_grad:
            loss.backward()
        return forward, meter.peak


def first_samples(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """The first `size` samples of a batch of tensors and lists."""
    count = len(batch["image"])
    return {
        name: value[:size] if isinstance(value, Tensor | list) and len(value) == count else value
        for name, value in batch.items()
    }


def checkpointing_switches(network: nn.Module) -> list[Network]:
    """Return the networks in `network`, itself included, whose flag `checkpointing` can be switched."""
    return [module for module in network.modules() if isinstance(module, Network) and module.checkpointing is not None]


@contextlib.contextmanager
def checkpointing_set(network: nn.Module, checkpointing: bool) -> Iterator[None]:
    """Set every switch of `network` on or off within."""
    before = {module: module.checkpointing for module in checkpointing_switches(network)}
    for module in before:
        module.checkpointing = checkpointing
    try:
        yield
    finally:
        for module, value in before.items():
            module.checkpointing = value


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _bytes(values: Iterable[Any]) -> int:
    """Of the tensors among `values`."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
