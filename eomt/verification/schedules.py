"""The rates that a learning-rate schedule will give, found on a copy of it."""

import copy
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

# so many steps are looked at, of a training whose length is not known and of any other
AHEAD, MOST = 1000, 10_000
# a share of the initial rate that is far enough up
ENOUGH = 0.01


@dataclass(frozen=True)
class Schedule:
    """A learning-rate scheduler, and how often the training steps it.

    Attributes:
        scheduler: One of torch, or what Accelerate puts around it.
        steps: How often it is stepped in the rest of the training; None: it is not known.
    """

    scheduler: Any
    steps: int | None = None


def schedules_of(schedulers: Iterable[Any]) -> list[Schedule]:
    """Return schedules, of which some may be given as schedulers alone."""
    return [given if isinstance(given, Schedule) else Schedule(given) for given in schedulers]


def full_rates(optimizer: Optimizer, schedules: Iterable[Schedule]) -> list[Any]:
    """Return for each group of an optimizer its rate of the whole training, and not that of a warm-up's first step.

    That is the initial rate; but where a schedule never comes near it, the largest that it reaches.
    """
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    for schedule in schedules:
        scheduler = schedule.scheduler
        # Accelerate's holds torch's
        while not hasattr(scheduler, "optimizer") and hasattr(scheduler, "scheduler"):
            scheduler = scheduler.scheduler
        if _plain(getattr(scheduler, "optimizer", None)) is optimizer:
            largest = _largest(scheduler, optimizer, schedule.steps, rates)
            rates = rates if largest is None else largest
    return rates


def _plain(optimizer: Any) -> Any:
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _largest(scheduler: Any, optimizer: Optimizer, steps: int | None, initial: list[Any]) -> list[float] | None:
    """Return the largest rate of each group; None where one comes near the initial ones, or that cannot be known."""
    stand_in = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(()))]} for _ in optimizer.param_groups], lr=0.0)
    for group, own in zip(stand_in.param_groups, optimizer.param_groups, strict=True):
        group.update({name: copy.copy(value) for name, value in own.items() if name != "params"})
    copied = _copied(scheduler, stand_in)
    largest = [0.0 for _ in initial]
    for _ in range(AHEAD if steps is None else max(1, min(steps, MOST))):
        now = [math.inf if group["lr"] is None else float(group["lr"]) for group in stand_in.param_groups]
        largest = [max(pair) for pair in zip(largest, now, strict=True)]
        if all(rate is None or high >= ENOUGH * float(rate) for high, rate in zip(largest, initial, strict=True)):
            return None
        try:
            with warnings.catch_warnings():
                # it speaks of the order of steps, and the stand-in makes none
                warnings.simplefilter("ignore")
                copied.step()
        except Exception:
            # it asks for a metric, or is none of torch's
            return None
    if steps is None or steps > MOST:
        # what rises slowly may have the time for it
        return [0.0 if not high else rate for high, rate in zip(largest, initial, strict=True)]
    return largest


def _copied(scheduler: Any, optimizer: Optimizer) -> Any:
    """Return a copy of a scheduler, and of those that it holds, for another optimizer."""
    copied = copy.copy(scheduler)
    for name, value in vars(scheduler).items():
        if name in ("optimizer", "_optimizer"):
            vars(copied)[name] = optimizer
        elif name in ("_schedulers", "schedulers"):
            vars(copied)[name] = [_copied(inner, optimizer) for inner in value]
        elif isinstance(value, list | Mapping):
            vars(copied)[name] = copy.copy(value)
    return copied
