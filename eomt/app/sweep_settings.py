"""What the command line tells `sweep`."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from eomt.errors import UserError
from eomt.sweep.jobs import Work

# fields of `sweep` alone
SWEEP_FIELDS = ("budget", "ways", "rates", "grid", "folds", "workers", "learning_curve", "launcher")


@dataclass(frozen=True)
class SweepSettings:
    """What the command line knows of a sweep.

    Attributes:
        config: The resolved configuration, as a run saves it.
        name: A name that was made up for its folder.
        run_name: The name that the user chose; None for none.
        allow_random_base: Whether frozen weights may be random.
        work: What its processes do.
        check: Raises a UserError of a configuration with a value that its field cannot have.
    """

    config: Mapping[str, Any]
    name: str
    run_name: str | None
    allow_random_base: bool
    work: Work
    check: Callable[[Mapping[str, Any]], None]


def sweep_settings(
    config: Namespace,
    command: str | None,
    resolved: Mapping[str, Any],
    stem: str,
    work: Callable[[], Work] | None,
    parser: ArgumentParser,
) -> SweepSettings | None:
    """Return what a sweep needs to know, and take the adapters out of its settings; None for other commands.

    Args:
        config: Settings of the command, changed in place: its trainings adapt the network, each in its way.
        command: Its name.
        resolved: The resolved configuration, as a run saves it.
        stem: File name of the configuration without its suffix.
        work: Returns what its processes do; None where the command line runs without them.
        parser: Of the command.

    Raises:
        UserError: If there is nothing that its processes could do.
    """
    if command != "sweep":
        return None
    if work is None:
        raise UserError("sweep: only the program sweeps; call eomt.cli.main in Python")
    config.model.init_args.lora_config = None
    name = f"{stem}_sweep_{datetime.now():%Y%m%d-%H%M%S}"

    def check(values: Mapping[str, Any]) -> None:
        parser.parse_object(copy.deepcopy(dict(values)))

    return SweepSettings(resolved, name, config.run_name, config.audit.allow_random_base, work(), check)
