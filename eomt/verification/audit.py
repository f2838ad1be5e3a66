"""Proof that every adapter acts and learns, on one batch, in at most three passes.

It takes any torch module; the caller gives functions that compute a loss and an output from a batch.
"""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from eomt.errors import UserError
from eomt.lora.adapter_layer import AdapterLayer, is_adapter_name, lora_layers, record_calls
from eomt.lora.config import adaptation
from eomt.lora.targets import is_inside
from eomt.lora.trainable import check_trainable
from eomt.utils.arguments import checked_arguments
from eomt.utils.loaded import loaded_in
from eomt.utils.modes import evaluation_mode, isolated_randomness, training_mode
from eomt.verification.passes import Loss, Outputs, answer_of, check_pass, loss_of
from eomt.verification.passes import call as call

OptimizerStep = Callable[[Optimizer], Any]

# the least that a step must move a tensor, as a share of its size: ten thousand such steps add up to a thousandth
LEAST_STEP = 1e-7


@dataclass(frozen=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        faults: A sentence for each fault that was found.
        adapters: Paths of the adapted layers.
        trained_in_full: Paths of the modules that are trained in full beside the adapters.
    """

    faults: tuple[str, ...]
    adapters: tuple[str, ...] = ()
    trained_in_full: tuple[str, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether there are no faults."""
        return not self.faults

    def __str__(self) -> str:
        """Return the result in one line."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            return self.faults[0] + more
        parts = [f"all {len(self.adapters)} adapters act and learn"] if self.adapters else []
        if self.trained_in_full:
            names = ", ".join(self.trained_in_full)
            parts.append(f"{len(self.trained_in_full)} modules trained in full learn ({names})")
        return "; ".join(parts) or "every parameter is trained"

    def require(self) -> None:
        """Stop if there are faults.

        Raises:
            UserError: If there are; the message has the first one and how many more there are.
        """
        if self.faults:
            raise UserError(f"audit: {self}")


@checked_arguments
def audit(
    model: nn.Module,
    batch: Any,
    loss: Loss,
    outputs: Outputs | None = None,
    optimizers: Iterable[Optimizer] | None = None,
    allow_random_base: bool = False,
    step: OptimizerStep = lambda optimizer: optimizer.step(),
) -> AuditReport:
    """Check that each adapter of a model acts and learns.

    These are checked, on one batch and in at most three passes:

    - Exactly the parameters that the LoRAConfig implies are trainable. Each is in an optimizer and in 32 bits, and one
      step at the full learning rate moves it.
    - Each adapter is called in training and in evaluation.
    - A and B of each adapter get a finite gradient other than zero, from the loss in training and from the output in
      evaluation. Everything else that is trained gets a gradient.
    - The output is the same with gradients and under no_grad.
    - No frozen tensor is random, that is, was never read from a file.

    Random states, buffers, gradients, weights and optimizers are afterwards as before.

    Args:
        model: Any torch module, adapted by `apply_lora` or `load_adapter`, or plain.
        batch: Batch for `loss` and `outputs`, on the model's device.
        loss: Returns the scalar loss of a model on a training batch, with its graph.
        outputs: Returns a model's answer to a batch as one tensor; None calls the model with the batch.
        optimizers: Optimizers of the training; None does not check them.
        allow_random_base: Let frozen weights be random, as in a smoke test without pre-trained weights.
        step: Makes a step of an optimizer, as the training does, for example with clipped gradients.

    Raises:
        UserError: If an argument is not of its type, the batch is empty, something was made in torch.inference_mode,
            `loss` returns no scalar, `outputs` no tensor, or other parameters are trainable than the model's LoRAConfig
            implies.
    """
    check_pass("audit", model, batch)
    check_trainable(model)
    optimizers = list(optimizers) if optimizers is not None else []
    faults = _optimizer_faults(model, optimizers) if optimizers else []
    faults += [] if allow_random_base else random_base_faults(model)
    # faults that are there before the first pass would only cause more in it
    faults = faults or _faults_in_passes(model, batch, loss, outputs or call, optimizers, step)
    done = adaptation(model)
    return AuditReport(tuple(faults), tuple(lora_layers(model)), tuple(done.trained_in_full if done else ()))


def random_base_faults(model: nn.Module) -> list[str]:
    """Return a fault if a frozen tensor is random: a low-rank change of a random matrix is no adaptation."""
    parameters = dict(model.named_parameters())
    random = [name for name in random_names(model) if not parameters[name].requires_grad]
    if not random:
        return []
    return [
        f"{random[0]!r} is frozen but was never loaded ({len(random)} such tensors); load it (`pretrained`), train it "
        "(trainable_modules) or, for a smoke test, set the audit's allow_random_base to true"
    ]


def random_names(model: nn.Module) -> list[str]:
    """Return the names of all parameters but adapters' that were never read from a file."""
    loaded = loaded_names(model)
    return [name for name, _ in model.named_parameters() if name not in loaded and not is_adapter_name(name)]


def loaded_names(model: nn.Module) -> set[str]:
    """Return the names in `model` of all tensors that were read from files, here or in modules inside."""
    found = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name for name in loaded_in(module)}
    for path, layer in lora_layers(model).items():
        # a layer of PEFT holds the plain one, whose tensors were recorded under the names before
        holder = layer.base_weight_name.removesuffix("weight")
        found |= {f"{path}.{holder}{part}" for part in ("weight", "bias") if f"{path}.{part}" in found}
    return found


def _optimizer_faults(model: nn.Module, optimizers: Iterable[Optimizer]) -> list[str]:
    """Return a fault for each trainable tensor that is in no optimizer."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    faults = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in held:
            faults.append(f"{name!r} is trainable but in no optimizer; see configure_optimizers")
        elif parameter.requires_grad and parameter.itemsize < 4:
            faults.append(
                f"{name!r} is trained in {parameter.dtype}, where small steps round to nothing; "
                "train in float32 (precision bf16-mixed)"
            )
    return faults


def _faults_in_passes(
    model: nn.Module, batch: Any, loss: Loss, outputs: Outputs, optimizers: list[Optimizer], step: OptimizerStep
) -> list[str]:
    """Return the faults in a training pass and, where there are adapters, in two evaluation passes."""
    layers = lora_layers(model)
    # eager: else these passes would be compiled too, and reach dynamo's limit of recompilations
    with isolated_randomness(), untouched(model), torch.compiler.set_stance("force_eager"):
        shake(layers)
        faults = _training_faults(model, batch, loss, layers)
        if not faults:
            faults = _step_faults(model, layers, optimizers, step)
        if layers:
            model.zero_grad()
            faults += evaluation_faults(model, batch, outputs, layers)
    return faults


def shake(layers: dict[str, AdapterLayer]) -> None:
    """Give each B random values: while it is zero it does not change the output, and A gets no gradient."""
    for layer in layers.values():
        nn.init.normal_(layer.lora_b, std=0.02)


def _training_faults(model: nn.Module, batch: Any, loss: Loss, layers: dict[str, AdapterLayer]) -> list[str]:
    """Return a fault for each adapter that is not called, and for what gets no gradient from the loss."""
    with training_mode(model), torch.enable_grad(), record_calls() as called:
        value = loss_of(loss, model, batch)
        if not value.requires_grad:
            return [
                "the loss does not depend on anything trainable "
                "(is the network run under no_grad, or checkpointed with use_reentrant=True?)"
            ]
        if not value.isfinite():
            return [
                f"the loss is {value.item()}; look for such values in batch and weights, and for a division by zero"
            ]
        value.backward()
    faults = [f"{path!r} is never called in training" for path, layer in layers.items() if layer not in called]
    faults += _adapter_faults(layers, "in training")
    done = adaptation(model)
    heads = done.trained_in_full if done else []
    # under all of their names: a module may hold nothing but a tied weight
    trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    for path in heads:
        if fault := _gradient_fault([p for name, p in trained.items() if is_inside(name, [path])]):
            faults.append(f"{path!r}, trained in full, {fault}")
    for name, parameter in trained.items():
        if parameter.grad is None and not is_inside(name, layers):
            faults.append(f"{name!r} is trained but gets no gradient: its output is not used, or is detached")
    return faults


def _step_faults(
    model: nn.Module, layers: dict[str, AdapterLayer], optimizers: list[Optimizer], step: OptimizerStep
) -> list[str]:
    """Return a fault for each adapter's A or B, and each trained layer, that a step of its optimizer hardly moves.

    A layer may hold a tensor that never moves, such as the bias of keys, which softmax does not see. A learning rate of
    zero, a tiny alpha, gradients far below the epsilon of the optimizer: all of it ends here. The learning rate is that
    of the whole run, not that of the first step of a warm-up.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    # an adapter moves the weight by its factor times its own move
    factors = {p: min(1.0, abs(layer.factor)) for layer in layers.values() for p in (layer.lora_a, layer.lora_b)}
    shares: dict[str, tuple[float, str]] = {}
    for optimizer in optimizers:
        with _undone(optimizer) as before:
            for group in optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"])
                if "weight_decay" in group:
                    # it moves weights, but teaches them nothing
                    group["weight_decay"] = 0.0
            step(optimizer)
            for parameter, value in before.items():
                if parameter not in names:
                    continue
                moved = float((parameter.detach() - value).norm()) * factors.get(parameter, 1.0)
                # a tensor of zeros may start anywhere
                share = moved / max(float(value.norm()), 1e-3 * value.numel() ** 0.5)
                share = share if math.isfinite(share) else 0.0
                name = names[parameter]
                part = name if is_adapter_name(name) else name.rpartition(".")[0]
                shares[part] = max(shares.get(part, (-1.0, "")), (share, name))
    return [
        f"{name!r} moves by {share:.0e} of its size in a step of the optimizer: it cannot learn (see the learning "
        "rate, lora_alpha, gradient_clip_val)"
        for share, name in shares.values()
        if not share >= LEAST_STEP
    ]


@contextlib.contextmanager
def _undone(optimizer: Optimizer) -> Iterator[dict[nn.Parameter, Tensor]]:
    """Put parameters, states and settings of an optimizer back afterwards; yield the values of the parameters."""
    before = {p: p.detach().clone() for group in optimizer.param_groups for p in group["params"]}
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    states = {parameter: copy.deepcopy(state) for parameter, state in optimizer.state.items()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)
        for group, setting in zip(optimizer.param_groups, settings, strict=True):
            group.update(setting)
        optimizer.state.clear()
        optimizer.state.update(states)


def evaluation_faults(model: nn.Module, batch: Any, outputs: Outputs, layers: dict[str, AdapterLayer]) -> list[str]:
    """Return a fault for each adapter that is not called or does not change the output.

    Two passes: one with gradients, which show for each adapter whether it acts, and one without, since fast paths that
    bypass adapters run only there. Both must give the same answers.
    """
    with evaluation_mode(model):
        with torch.no_grad(), isolated_randomness(), record_calls() as called:
            without = answer_of(outputs, model, batch)
        with torch.enable_grad(), isolated_randomness():
            answers = answer_of(outputs, model, batch)
            if answers.requires_grad:
                (answers * torch.randn_like(answers)).sum().backward()
    faults = [f"{path!r} is never called in evaluation" for path, layer in layers.items() if layer not in called]
    faults += _adapter_faults(layers, "in evaluation: it does not change the output")
    difference = float((answers.detach() - without).abs().max())
    # 16 bits keep two to three figures through a network
    half = torch.is_autocast_enabled(without.device.type) or any(p.itemsize == 2 for p in model.parameters())
    # written so that NaN is a fault too
    if not difference <= (0.02 if half else 0.005) * float(without.abs().max()):
        faults.append(
            f"answers in evaluation differ by {difference:.1e} between no_grad and grad mode (is an adapter bypassed?)"
        )
    return faults


def _adapter_faults(layers: dict[str, AdapterLayer], where: str) -> list[str]:
    faults = []
    for path, layer in layers.items():
        for name in reversed(layer.adapter_tensors().values()):
            if fault := _gradient_fault([layer.get_parameter(name)]):
                faults.append(f"{name.partition('.')[0]} of {path!r} {fault} {where}")
                break
    return faults


def _gradient_fault(parameters: list[nn.Parameter]) -> str | None:
    """Return what is wrong with the gradients of tensors that belong together: some may be zero, but not all."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return "gets no gradient"
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return "gets a gradient that is not finite"
    if not any(bool(gradient.any()) for gradient in gradients):
        return "gets a gradient of zero: it cannot learn from this batch"
    return None


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put the adapters' B, buffers and gradients back afterwards."""
    kept: dict[Tensor, Tensor] = {}
    for layer in lora_layers(model).values():
        kept[layer.lora_b] = layer.lora_b.detach().clone()
    kept |= {buffer: buffer.clone() for buffer in model.buffers()}
    gradients = {parameter: parameter.grad for parameter in model.parameters()}
    for parameter in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept.items():
                tensor.copy_(value)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
