"""What is kept of a training step for its backward pass, and what is made again: one switch for all networks."""

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

from torch import nn

from eomt.errors import UserError
from eomt.lora.activations import RemadeActivation, make_inputs_again
from eomt.models.network import Network

Memory = Literal["floor", "less", "least"]
SETTINGS: tuple[Memory, ...] = get_args(Memory)


def checkpointing_switches(network: nn.Module) -> list[Network]:
    """Return the networks in `network`, itself included, that have a switch `checkpointing`."""
    return [module for module in network.modules() if isinstance(module, Network) and module.checkpointing is not None]


def memory_of(network: nn.Module) -> Memory | None:
    """Return the setting of a network; None where only some of its parts are checkpointed."""
    states = {bool(switch.checkpointing) for switch in checkpointing_switches(network)}
    if states == {True}:
        return "least"
    if True in states:
        return None
    return "less" if _is_less(network) else "floor"


def set_memory(network: nn.Module, memory: Memory) -> None:
    """Set what a network keeps for the backward pass; its answers and gradients stay the same.

    Args:
        network: An adapted or plain network, changed in place.
        memory: "floor" keeps what the frozen network keeps, and nothing more for adapters; "less" makes inputs of
            activations behind adapted layers again, too, and EoMT's predictions at their high resolution; "least" whole
            blocks (activation checkpointing).

    Raises:
        UserError: If it is "least", and no part of the network can be checkpointed.
    """
    switches = checkpointing_switches(network)
    if memory == "least" and not switches:
        raise UserError(f"memory: least, but no part of {type(network).__name__} can be checkpointed; give less")
    for switch in switches:
        switch.checkpointing = memory == "least"
    _set_less(network, memory == "less")


def settings_of(network: nn.Module) -> tuple[Memory, ...]:
    """Return the settings that a network can have."""
    return SETTINGS if checkpointing_switches(network) else SETTINGS[:2]


@contextlib.contextmanager
def memory_set(network: nn.Module, memory: Memory) -> Iterator[None]:
    """Let a network have another setting within."""
    switches = {switch: switch.checkpointing for switch in checkpointing_switches(network)}
    less = _is_less(network)
    set_memory(network, memory)
    try:
        yield
    finally:
        for switch, checkpointing in switches.items():
            switch.checkpointing = checkpointing
        _set_less(network, less)


def _is_less(network: nn.Module) -> bool:
    remakes = any(isinstance(module, Network) and module.remakes_outputs for module in network.modules())
    return remakes or any(isinstance(module, RemadeActivation) for module in network.modules())


def _set_less(network: nn.Module, less: bool) -> None:
    make_inputs_again(network, less)
    for module in network.modules():
        if isinstance(module, Network):
            module.remakes_outputs = less
