"""A pass of a model over a batch: what goes in, the loss or the answer that comes out, and what is refused."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eomt.errors import UserError, shortened
from eomt.lora.adapter_layer import require_gradients
from eomt.utils.arguments import described

# how PyTorch and models refuse shapes, types, devices, indices, and what is missing in a batch
REFUSALS = (RuntimeError, IndexError, TypeError, ValueError, KeyError, AttributeError, AssertionError)

Loss = Callable[[nn.Module, Any], Tensor]
Outputs = Callable[[nn.Module, Any], Tensor]


# a mask that is added to answers, such as -1e4 or -1e9, is below the first, and as many times larger than all others
NEVER, APART = -8192.0, 25.0


def ordinary(answers: Tensor) -> Tensor:
    """Return where answers do not stand for "never".

    What does is infinite, near the largest number of its type, or far below all others, as a mask of -1e9 makes it.
    """
    if not answers.is_floating_point():
        return answers.isfinite()
    # answers of two models are compared in double precision
    found = answers.abs() < min(torch.finfo(answers.dtype).max, torch.finfo(torch.float32).max) / 4
    while answers.numel() and (lowest := float(torch.where(found, answers, 0.0).amin())) <= NEVER:
        rest = found & (answers > lowest / 4)
        if not bool(rest.any()) or float(answers[rest].abs().max()) > -lowest / 4 / APART:
            break
        found = rest
    return found


def check_pass(function: str, model: nn.Module, batch: Any) -> None:
    """Check that a model and a batch can be in a pass with gradients, and that the batch holds something.

    Args:
        function: Name of the caller, for the message.
        model: Any module.
        batch: What the model is to be called with.

    Raises:
        UserError: If the batch is None or empty, tensors were made in torch.inference_mode, or it is active.
    """
    tensors = list(tensors_in(batch))
    no_values = bool(tensors) and not any(value.numel() for value in tensors)
    if batch is None or no_values or (isinstance(batch, Mapping | tuple | list) and not batch):
        raise UserError(f"{function}: batch is empty: {described(batch)}; give one with at least one sample")
    if torch.is_inference_mode_enabled():
        raise UserError(f"{function}: called in torch.inference_mode, where nothing has a gradient; call it outside")
    require_gradients({**dict(model.named_parameters()), **dict(model.named_buffers())}, function)
    require_gradients({f"batch, tensor {number}": value for number, value in enumerate(tensors)}, function)


def loss_of(loss: Loss, model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of a model on a batch.

    Args:
        loss: Function of a model and a batch.
        model: Any module.
        batch: Batch for `loss`.

    Raises:
        UserError: If `loss` does not take a model and a batch, or does not return one real number in a tensor.
    """
    remedy = "give a function such as lambda model, batch: criterion(model(batch[0]), batch[1])"
    if isinstance(loss, nn.modules.loss._Loss):
        raise UserError(f"loss: {type(loss).__name__} takes an answer and a target, not a model and a batch; {remedy}")
    _check_call("loss: the function cannot be called with model and batch", loss, (model, batch), {}, remedy)
    value = loss(model, copied(batch))
    if not isinstance(value, Tensor):
        raise UserError(f"loss: returns {described(value)}; return the loss as a tensor with one number")
    if value.numel() != 1 or not value.is_floating_point():
        raise UserError(
            f"loss: returns {value.dtype} of shape {list(value.shape)}; return one real number, such as its mean"
        )
    return value


def own_loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss that a model computes itself, as those of transformers do of a batch with labels.

    Args:
        model: Called as `model(**batch)` with a mapping, `model(*batch)` with a tuple or list, else `model(batch)`.
        batch: Input of the model.

    Raises:
        UserError: If the model does not take such a batch, or its answer holds no loss.
    """
    answer = call_of("loss", model, batch)
    loss = answer.get("loss") if isinstance(answer, Mapping) else getattr(answer, "loss", None)
    if not isinstance(loss, Tensor):
        raise UserError(
            f"loss: {type(model).__name__} answers {type(answer).__name__} without a loss; put labels into the batch, "
            "or give loss="
        )
    # DataParallel gathers one of each device
    return loss.mean() if loss.dim() == 1 and len(loss) > 1 else loss


def answer_of(outputs: Outputs, model: nn.Module, batch: Any) -> Tensor:
    """Return a model's answer to a batch.

    Args:
        outputs: Function of a model and a batch.
        model: Any module.
        batch: Batch for `outputs`.

    Raises:
        UserError: If `outputs` does not return a tensor with numbers in it.
    """
    answer = outputs(model, copied(batch))
    if not isinstance(answer, Tensor):
        raise UserError(f"outputs: returns {described(answer)}; return the model's answer as one tensor")
    if not answer.numel():
        raise UserError(
            f"outputs: returns a tensor of shape {list(answer.shape)}, without numbers; give a larger batch"
        )
    return answer


def call(model: nn.Module, batch: Any) -> Tensor:
    """Return all floating-point tensors of a model's answer, as one vector.

    Args:
        model: Called as `model(**batch)` with a mapping, `model(*batch)` with a tuple or list, else `model(batch)`.
        batch: Input of the model.

    Raises:
        UserError: If the model does not take such a batch, or its answer holds no such tensor.
    """
    answer = call_of("outputs", model, batch)
    tensors = [value for value in tensors_in(answer) if value.is_floating_point()]
    if not tensors:
        name = type(model).__name__
        raise UserError(f"outputs: {name} answers {type(answer).__name__}, without real numbers; give outputs=")
    return torch.cat([value.flatten() for value in tensors])


def call_of(argument: str, model: nn.Module, batch: Any) -> Any:
    """Return a model's answer to a batch as it is.

    Args:
        argument: Name of the function that would be given in place of this call, for messages.
        model: Called as `model(**batch)` with a mapping, `model(*batch)` with a tuple or list, else `model(batch)`.
        batch: Input of the model.

    Raises:
        UserError: If the model does not take such a batch.
    """
    keywords, positions = (batch, ()) if isinstance(batch, Mapping) else ({}, batch)
    if not isinstance(positions, tuple | list):
        positions = (positions,)
    name = type(model).__name__
    remedy = f"give {argument}="
    _check_call(f"{argument}: {name} cannot be called with the batch", model.forward, positions, keywords, remedy)
    try:
        return model(*positions, **keywords)
    except REFUSALS as error:
        # subclasses (memory, recursion, a missing library) speak of something else
        if type(error) not in REFUSALS:
            raise
        # PyTorch's own speak for themselves, and a key alone says nothing
        kind = "" if isinstance(error, RuntimeError | IndexError) else f"{type(error).__name__}: "
        reason = kind + shortened(str(error).strip().partition("\n")[0], 120)
        raise UserError(
            f"{argument}: {name} cannot answer the batch ({reason}); give a batch that fits it, or {argument}="
        ) from error


def _check_call(
    what: str, function: Callable[..., Any], positions: Any, keywords: Mapping[str, Any], remedy: str
) -> None:
    """Check that a function takes such arguments, without calling it."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        # a builtin that does not tell
        return
    try:
        signature.bind(*positions, **keywords)
    except TypeError as error:
        raise UserError(f"{what} ({error}); {remedy}") from error


def copied(batch: Any) -> Any:
    """Return a copy of a batch: a pass may take entries out of it, or change its tensors in place."""
    if isinstance(batch, Tensor):
        return batch.detach().clone().requires_grad_(batch.requires_grad)
    if isinstance(batch, list):
        found = copy.copy(batch)
        found[:] = [copied(part) for part in batch]
        return found
    if isinstance(batch, tuple) and (type(batch) is tuple or hasattr(batch, "_fields")):
        parts = [copied(part) for part in batch]
        return tuple(parts) if type(batch) is tuple else type(batch)(*parts)
    if isinstance(batch, MutableMapping):
        entries = copy.copy(batch)
        for name, value in batch.items():
            entries[name] = copied(value)
        return entries
    if is_dataclass(batch) and not isinstance(batch, type):
        held: Any = copy.copy(batch)
        for field in fields(batch):
            # also where it is frozen
            object.__setattr__(held, field.name, copied(getattr(batch, field.name)))
        return held
    return batch


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in mappings, tuples, lists and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
