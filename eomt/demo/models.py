"""Several adapters of one base, which is in memory once."""

import copy
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from eomt.errors import UserError
from eomt.lora.config import adaptation
from eomt.lora.files import load_adapter
from eomt.lora.layers import disable_adapters, lora_layers, remove_adapters
from eomt.lora.peft_reading import read_folder
from eomt.predictors.predictor import Predictor

BASE = "without adapters"


class Models:
    """A trained network, and other adapters of its base, each as a function of images.

    Args:
        network: The network.
        predictor: Makes the predictor of a network.
        name: What the trained network is called.
    """

    def __init__(self, network: nn.Module, predictor: Callable[[nn.Module], Predictor[Any]], name: str) -> None:
        self._networks = {name: network}
        self._make, self._predictors = predictor, {name: predictor(network)}
        self._first = name
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of all that can be asked: the trained network, other adapters, the base without any."""
        return [*self._networks, *([BASE] if lora_layers(self._networks[self._first]) else [])]

    @property
    def first(self) -> Predictor[Any]:
        """The trained network."""
        return self._predictors[self._first]

    def add(self, name: str, folder: Path) -> None:
        """Open another adapter of the same base; only what it trained takes memory.

        Raises:
            UserError: If the name is taken, or the adapter cannot be read or belongs to another base.
        """
        if name in (*self._networks, BASE):
            raise UserError(f"adapter: {name!r} is there already; give it another name")
        _, tensors, _ = read_folder(folder)
        network = plain_copy(self._networks[self._first], tensors)
        load_adapter(network, folder)
        trained, found = (adaptation(part) for part in (self._networks[self._first], network))
        missing = set(trained.trained_in_full if trained else ()) - set(found.trained_in_full if found else ())
        if missing:
            raise UserError(
                f"adapter: {folder} does not hold {min(missing)!r}, which --ckpt_path trained in full; open it alone"
            )
        self._networks[name] = network.eval().requires_grad_(False)
        self._predictors[name] = self._make(network)

    @contextmanager
    def using(self, name: str) -> Iterator[Predictor[Any]]:
        """Give one of `names` to ask, to one caller at a time.

        Raises:
            UserError: If there is none of that name.
        """
        if name not in self.names:
            raise UserError(f"model: there is no {name[:40]!r}; choose one of the list")
        with self._lock:
            if name in self._predictors:
                yield self._predictors[name]
                return
            with disable_adapters(self._networks[self._first]):
                yield self._predictors[self._first]


def plain_copy(network: nn.Module, written: Collection[str]) -> nn.Module:
    """Return a network without adapters that shares its frozen values with another one.

    Args:
        network: With or without adapters.
        written: Names of tensors that will be written; what ends with one of them is copied.
    """
    shared = {
        id(parameter): parameter
        for name, parameter in network.named_parameters()
        if not any(name == other or name.endswith(f".{other}") for other in written)
    }
    found = copy.deepcopy(network, shared)
    return remove_adapters(found) if lora_layers(found) else found
