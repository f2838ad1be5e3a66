"""Peak memory of a training step on any batch, extrapolated from small ones that are run."""

import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from eomt.utils.modes import isolated_randomness, training_mode
from eomt.verification.restored import untouched

Step = Callable[[dict[str, Any]], Tensor]


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes at the peak of a training step, without Python and its libraries.

    Attributes:
        weights: Parameters and buffers.
        gradients: Gradients of the trained parameters.
        optimizer_states: The two averages of AdamW.
        activations: Everything else at the peak: the batch, what autograd keeps, temporary tensors.
    """

    weights: int
    gradients: int
    optimizer_states: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all four."""
        return self.weights + self.gradients + self.optimizer_states + self.activations


class LiveBytes(TorchDispatchMode):
    """A counter of the bytes of tensors that operations within it make, for as long as something holds them.

    Attributes:
        live: Bytes that are held now, by autograd too.
        peak: Largest number of bytes held at once, since the start or the last `restart`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """Start a new peak from the bytes that are held now."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # a storage that an operation returns or changes in place was there before, or is counted already
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
    """The same counter for a GPU, from the CUDA allocator, which also counts workspaces inside operations."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> Self:
        # what is freed within would be counted as never allocated
        gc.collect()
        self._before = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def restart(self) -> None:
        """Start a new peak from the bytes that are allocated now."""
        torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak(self) -> int:
        """Largest number of bytes allocated at once since the last `restart`, less those at the start."""
        return torch.cuda.max_memory_allocated(self.device) - self._before


def first_samples(batch: dict[str, Any], size: int) -> dict[str, Any]:
    """Return the first `size` samples of a batch of tensors and lists."""
    count = len(batch["image"])
    return {
        name: value[:size] if isinstance(value, Tensor | list) and len(value) == count else value
        for name, value in batch.items()
    }


def repeated(batch: dict[str, Any], index: int, size: int) -> dict[str, Any]:
    """Return one sample of a batch of tensors and lists `size` times."""
    chosen = [index] * size
    return {
        name: value[chosen] if isinstance(value, Tensor) else [value[number] for number in chosen]
        for name, value in batch.items()
    }


@dataclass(frozen=True)
class StepMemory:
    """What small training steps took, from which those on larger batches follow, linearly.

    Attributes:
        weights: Bytes of parameters and buffers.
        gradients: Bytes of the gradients of the trained parameters.
        in_optimizer: Bytes at the peak of the optimizer's step, gradients included.
        inputs: Bytes of a batch's tensors, for each image.
        peaks: Bytes at the peaks of the forward and of the backward pass, on one image and, if there were, on two.
        seconds: Duration of a step on one image.
    """

    weights: int
    gradients: int
    in_optimizer: int
    inputs: int
    peaks: tuple[tuple[int, int], ...]
    seconds: float

    def at(self, batch_size: int) -> TrainingMemory:
        """Return the peak memory of training with AdamW on batches of so many images."""
        # each phase grows linearly with the batch size; their maximum does not
        phases = zip(*self.peaks, strict=True)
        in_step = max(phase[0] + (phase[-1] - phase[0]) * (batch_size - 1) for phase in phases)
        activations = max(in_step, self.in_optimizer) - self.gradients + self.inputs * batch_size
        return TrainingMemory(self.weights, self.gradients, 2 * self.gradients, activations)

    def largest_batch(self, limit: int) -> int | None:
        """Return the number of images of the largest batch whose training takes at most so many bytes.

        It is 0 where one image takes more; None where steps on one image alone were run.
        """
        if len(self.peaks) < 2:
            return None
        size = 0
        step = 1 << 20
        while step:
            if self.at(size + step).total <= limit:
                size += step
            step //= 2
        return size


def step_memory(
    model: nn.Module,
    step: Step,
    batch: dict[str, Any],
    batch_size: int,
    forward_context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    first: Callable[[dict[str, Any], int], dict[str, Any]] = first_samples,
) -> StepMemory:
    """Run training steps on one and on two samples, and return what they took.

    Weights, gradients, buffers, metrics and random states are afterwards as before.

    Args:
        model: The model that is trained.
        step: Returns the loss of a batch as in training, and keeps nothing but its graph.
        batch: Batch of at least two samples, or one if `batch_size` is 1, on the model's device.
        batch_size: Images in a batch of the training.
        forward_context: Context around the forward pass, for its precision.
        first: Returns the first images of a batch with all that belongs to them.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = _bytes(trained)
    sizes = (1, 2) if batch_size > 1 else (1,)
    peaks = tuple(step_peaks(model, step, first(batch, size), forward_context) for size in sizes)
    # AdamW takes the root of the second average: on CUDA of all tensors at once, elsewhere of one at a time (twice)
    largest = max((_bytes([parameter]) for parameter in trained), default=0)
    return StepMemory(
        weights=_bytes([*model.parameters(), *model.buffers()]),
        gradients=gradients,
        in_optimizer=gradients + (gradients if _device_of(model).type == "cuda" else 2 * largest),
        inputs=_bytes(tree_iter(first(batch, 1))),
        peaks=peaks,
        seconds=_seconds(model, step, first(batch, 1), forward_context),
    )


def step_peaks(
    model: nn.Module,
    step: Step,
    batch: dict[str, Any],
    forward_context: Callable[[], AbstractContextManager[Any]],
) -> tuple[int, int]:
    """Return the peak bytes of a step's forward and of its backward pass, gradients included."""
    device = _device_of(model)
    meter = CudaBytes(device) if device.type == "cuda" else LiveBytes()
    with isolated_step(model), meter:
        for parameter in model.parameters():
            if parameter.requires_grad:
                # gradients of the step before: Lightning frees them only after the forward pass
                parameter.grad = torch.zeros_like(parameter)
        meter.restart()
        with forward_context():
            loss = step(batch)
        forward = meter.peak
        model.zero_grad()
        meter.restart()
        # the audit reports a loss that depends on nothing trained
        if loss.requires_grad:
            loss.backward()
        return forward, meter.peak


def _seconds(
    model: nn.Module, step: Step, batch: dict[str, Any], forward_context: Callable[[], AbstractContextManager[Any]]
) -> float:
    """Return the duration of a training step without the optimizer; another like it ran before."""
    device = _device_of(model)
    with isolated_step(model):
        start = time.perf_counter()
        with forward_context():
            loss = step(batch)
        if loss.requires_grad:
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start


@contextlib.contextmanager
def isolated_step(model: nn.Module) -> Iterator[None]:
    """Let a training step within leave no trace in weights, gradients, buffers, metrics and random states."""
    eager = torch.compiler.set_stance("force_eager")
    with isolated_randomness(), untouched(model), training_mode(model), eager, torch.enable_grad():
        yield


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _bytes(values: Iterable[Any]) -> int:
    """Return the bytes of the tensors among `values`."""
    return sum(value.numel() * value.element_size() for value in values if isinstance(value, Tensor))
