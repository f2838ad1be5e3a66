"""What a task sees of a configuration before anything is built, and fills in."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eomt.errors import UserError
from eomt.models.network import Arguments, Network
from eomt.tasks.data import TaskData


@dataclass
class Configuration:
    """Constructor arguments of a task, its network and its data; what is changed in them counts.

    Attributes:
        task: Arguments of the task, without those of its network.
        network: Arguments of the network.
        network_class: What they are for.
        data: Arguments of the datamodule; None where there is no data.
        data_class: What they are for.
        run_network: Arguments of the network of the run that a checkpoint is from; None without one.
        merged: The merged folder that is opened, if it says itself how it is opened.
        trains: Whether training data will be read.
    """

    task: Arguments
    network: Arguments
    network_class: type[Network]
    data: Arguments | None = None
    data_class: type[TaskData] | None = None
    run_network: Arguments | None = None
    merged: Path | None = None
    trains: bool = False

    # -- what tasks have in common -----------------------------------------------------------------------------------

    def fill_sizes(self) -> None:
        """Give data that are cut or resized to a size, and say none, that of the network."""
        self.fill_data("img_size", self.network_class.img_size_of(self.network))

    def fill_data(self, fact: str, value: Any) -> None:
        """Give the data what they ask of the network, where their argument for it is null.

        Args:
            fact: What the datamodule's class calls it in `from_network`.
            value: It; None where it is not known.
        """
        if self.data is None or self.data_class is None or value is None:
            return
        for name, wanted in self.data_class.from_network.items():
            if wanted == fact and self.data.get(name, value) is None:
                self.data[name] = value

    def fill_classes(self) -> None:
        """Give a network that has classes those of the data, or without data those of its run or weights.

        Raises:
            UserError: If the configuration has another number than the data, or nothing tells it.
        """
        if "num_classes" not in self.network:
            return
        given = self.network["num_classes"]
        datamodule = self.datamodule() if self.data is not None else None
        found = datamodule.num_classes if datamodule is not None else None
        if datamodule is None or found is None:
            # data to test on alone: the classes are those of the network
            self.network["num_classes"] = given or self.known_classes
            if datamodule is not None and self.network["num_classes"] is None:
                raise UserError("model.network.num_classes: null, and the data has no classes; give it as in training")
            return
        if given is not None and given != found:
            raise UserError(
                f"model.network.num_classes: {given}, but the data has {found} classes; leave it out, it is filled in"
            )
        self.network["num_classes"] = found
        self.keep_found(datamodule)

    def keep_found(self, datamodule: TaskData) -> None:
        """Fill in what the datamodule found in its training data: a saved run then needs none of it to predict."""
        assert self.data is not None
        for name, value in datamodule.found_arguments().items():
            if self.data.get(name, value) is None:
                self.data[name] = value

    @cached_property
    def known_classes(self) -> int | None:
        """The number of classes of the run or, without one, of the network's weights; None if neither says."""
        if self.run_network is not None:
            return self.run_network.get("num_classes")
        return self.network_class.classes_of(self.network)

    def datamodule(self) -> TaskData:
        """Build the datamodule, to ask it what belongs to it."""
        assert self.data is not None
        assert self.data_class is not None
        return self.data_class(**self.data)
