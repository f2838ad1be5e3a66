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
    return "less" if any(isinstance(module, RemadeActivation) for module in network.modules()) else "floor"


def set_memory(network: nn.Module, memory: Memory) -> None:
    """Set what a network keeps for the backward pass; its answers and gradients stay the same.

    Args:
        network: An adapted or plain network, changed in place.
        memory: "floor" keeps what the frozen network keeps, and nothing more for adapters; "less" makes inputs of
            activations behind adapted layers again, too; "least" whole blocks (activation checkpointing).

    Raises:
        UserError: If it is "least", and no part of the network can be checkpointed.
    """
    switches = checkpointing_switches(network)
    if memory == "least" and not switches:
        raise UserError(f"memory: least, but no part of {type(network).__name__} can be checkpointed; give less")
    for switch in switches:
        switch.checkpointing = memory == "least"
    make_inputs_again(network, memory == "less")


def settings_of(network: nn.Module) -> tuple[Memory, ...]:
    """Return the settings that a network can have."""
    return SETTINGS if checkpointing_switches(network) else SETTINGS[:2]


@contextlib.contextmanager
def memory_set(network: nn.Module, memory: Memory) -> Iterator[None]:
    """Let a network have another setting within."""
    switches = {switch: switch.checkpointing for switch in checkpointing_switches(network)}
    remade = memory_of(network) == "less"
    set_memory(network, memory)
    try:
        yield
    finally:
        for switch, checkpointing in switches.items():
            switch.checkpointing = checkpointing
        make_inputs_again(network, remade)
