"""What a command line must be for a fit on a Ray cluster, told before there is one."""

from pathlib import Path
from typing import Any

from eomt.app.command_line import CLI
from eomt.errors import UserError

# what the cluster sets
OURS = {"strategy": ("auto", "ddp"), "devices": ("auto",), "num_nodes": (1,)}


class SettingsForRay(CLI):
    """The command line with processes that Ray starts."""

    def before_instantiate_classes(self) -> None:
        """Complete and check the configuration.

        Raises:
            UserError: If it asks for processes that Ray does not start.
        """
        for name, allowed in OURS.items():
            if (value := self._settings.trainer.get(name)) not in allowed:
                raise UserError(f"trainer.{name}: {value}, but Ray starts the processes; leave it out")
        super().before_instantiate_classes()


class _Sound(Exception):  # noqa: N818, since it is no error
    """Nothing was wrong; it carries the folder of the run."""


class _Check(SettingsForRay):
    """All that comes before a run; its folder is removed as that of a run that did not begin."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build no trainer: there may be a GPU only where the processes are."""
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        raise _Sound(self.folder)


def check_fit(args: list[str]) -> Path:
    """Check a fit as far as it can be without its processes, and return the folder of its run.

    That is all fields, the weights, and that the folder is free or that of the checkpoint.

    Args:
        args: The command line, without the options of launchers.

    Raises:
        UserError: If something is wrong.
    """
    try:
        _Check(args)
    except _Sound as sound:
        return Path(sound.args[0]).absolute()
    raise AssertionError("the check did not end")
