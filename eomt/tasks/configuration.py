"""The parts of a configuration that a task completes before anything is built."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eomt.errors import UserError
from eomt.models.network import Arguments, Network, check_img_size
from eomt.tasks.data import DataTarget, TaskData
from eomt.utils.images import RGB
from eomt.utils.paths import constructor_parameters

# what a datamodule may ask of a network, in its `from_network`
NETWORK_FACTS = ("img_size", "tokenizer", "max_tokens")


@dataclass
class Configuration:
    """Constructor arguments of a task, its network and its data; changes to them take effect.

    Attributes:
        task: Arguments of the task, without those of its network.
        network: Arguments of the network.
        network_class: Class of the network.
        data: Arguments of the datamodule; None where there is no data.
        data_class: Class of the datamodule; None where there is no data.
        read_run_network: Returns the arguments of the network in the run that the checkpoint belongs to; None without
            a run.
        merged: The merged folder that is opened, if its network class opens folders itself; else None.
        trains: Whether training data will be read.
    """

    task: Arguments
    network: Arguments
    network_class: type[Network]
    data: Arguments | None = None
    data_class: type[TaskData] | None = None
    read_run_network: Callable[[], Arguments] | None = None
    merged: Path | None = None
    trains: bool = False

    # -- shared by tasks ---------------------------------------------------------------------------------------------

    def fill_sizes(self) -> None:
        """Set the image size of the data to that of the network, where the data has one and it is null.

        Raises:
            UserError: If it is below 1 pixel: the data would name their own field, which nobody set.
        """
        self.fill_data("img_size", self._network_size)

    def _network_size(self) -> Any:
        size = self.network_class.img_size_of(self.network)
        encoder = (self.network.get("encoder") or {}).get("init_args") or {}
        field = "model.network.encoder.img_size" if "img_size" in encoder else "model.network.img_size"
        if size is not None:
            check_img_size(size, field)
        return size

    def fill_channels(self) -> None:
        """Set the number of channels that the encoder takes to that of the data, where it is null.

        Raises:
            UserError: If they differ, or the network takes no others than RGB.
        """
        arguments = self.network_class.channels_of(self.network)
        given = None if arguments is None else arguments["in_chans"]
        if self.data is None:
            return
        bands = self.data.get("channels")
        # one band is shown in gray
        found = RGB if bands is None or len(bands) <= RGB else len(bands)
        if arguments is None:
            if found != RGB:
                raise UserError(
                    f"data.channels: {found} channels, but {self.network_class.__name__} with this encoder takes "
                    "three; give three of them"
                )
        elif given is None:
            if found != RGB:
                arguments["in_chans"] = found
        elif given != found:
            raise UserError(
                f"model.network.encoder.in_chans: {given}, but data.channels ({bands}) makes images of {found}; leave "
                "in_chans out: it is filled in"
            )

    def fill_target(self, target: DataTarget | None) -> None:
        """Set what batches are for, where the data makes them for several tasks and it is null.

        Args:
            target: What the task takes; None where any will do.

        Raises:
            UserError: If the data is told to make batches for another task.
        """
        if self.data is None or self.data_class is None or target is None:
            return
        for name in self.data_class.from_task:
            if self.data.get(name, target) is None:
                self.data[name] = target
            elif self.data.get(name, target) != target:
                raise UserError(
                    f"data.{name}: {self.data[name]}, but the task takes {target}; leave it out: it is filled in"
                )

    def fill_data(self, fact: str, find: Callable[[], Any]) -> None:
        """Set the arguments of the data that take a fact about the network and are null.

        Args:
            fact: Name of the fact in the datamodule's `from_network`.
            find: Returns the fact, None where it is not known; called only where it is needed, as it may read files.

        Raises:
            UserError: If `from_network` names something else.
        """
        if self.data is None or self.data_class is None:
            return
        for name, wanted in self.data_class.from_network.items():
            if wanted not in NETWORK_FACTS or name not in constructor_parameters(self.data_class):
                raise UserError(
                    f"{self.data_class.__name__}.from_network: {{{name!r}: {wanted!r}}}; must be an argument of its "
                    f"constructor, and one of {', '.join(NETWORK_FACTS)}"
                )
            if wanted == fact and name in self.data and self.data[name] is None:
                self.data[name] = find()

    def fill_classes(self) -> None:
        """Set the number of classes of a network to that of the data or, without data, of its run or weights.

        Raises:
            UserError: If the configuration has another number than the data, or the number is not known.
        """
        if "num_classes" not in self.network:
            return
        given = self.network["num_classes"]
        datamodule = self.datamodule() if self.data is not None else None
        found = datamodule.num_classes if datamodule is not None else None
        if datamodule is None or found is None:
            # data that is only tested on: the network determines the classes
            self.network["num_classes"] = given or self.known_classes
            if datamodule is not None and self.network["num_classes"] is None:
                raise UserError("model.network.num_classes: null, and the data has no classes; give it as in training")
            return
        if given is not None and given != found:
            raise UserError(
                f"model.network.num_classes: {given}, but the data has {found} classes; leave it out: it is filled in"
            )
        self.network["num_classes"] = found
        self.keep_found(datamodule)

    def keep_found(self, datamodule: TaskData) -> None:
        """Fill in what the datamodule found in its training data, so that a saved run can predict without it."""
        assert self.data is not None
        for name, value in datamodule.found_arguments().items():
            if name in self.data and self.data[name] is None:
                self.data[name] = value

    @cached_property
    def known_classes(self) -> int | None:
        """Number of classes of the run or, without a run, of the network's weights; None if it is not known."""
        if self.read_run_network is not None:
            return self.read_run_network().get("num_classes")
        return self.network_class.classes_of(self.network)

    def datamodule(self) -> TaskData:
        """Return a new datamodule, built from its arguments."""
        assert self.data is not None
        assert self.data_class is not None
        return self.data_class(**self.data)
