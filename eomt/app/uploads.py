"""The option `--hub`: what a command has made goes to the Hugging Face hub when it has ended."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from eomt.app.log import show
from eomt.errors import UserError, first_line
from eomt.verification.merging import ORIGINAL_SUFFIX

# commands that make what can be shared
COMMANDS = ("fit", "merge")


class Sharing(Protocol):
    """What uploads weights, such as `eomt.sharing.push`; the application below it does not import it."""

    def check_shareable(self, config: Mapping[str, Any], name: str, is_merged: bool) -> None:
        """Raise a UserError if weights of a configuration could not be uploaded under a name."""

    def push(self, path: str | Path, name: str) -> str:
        """Upload a run's best weights, or a merged folder, and return their address."""


def check_hub(
    settings: Any, command: str | None, config: Mapping[str, Any], sharing: Callable[[], Sharing] | None
) -> None:
    """Check before a command runs that what it makes can be uploaded, if `--hub` asks for that.

    Args:
        settings: Of the command.
        command: Its name.
        config: The resolved configuration.
        sharing: Returns what uploads; None where the command line runs without it.

    Raises:
        UserError: If it cannot be.
    """
    if settings.hub is None:
        return
    if command not in COMMANDS:
        raise UserError(f"hub: {command} makes nothing to upload; {' and '.join(COMMANDS)} take --hub")
    if settings.trainer.fast_dev_run:
        raise UserError("hub: trainer.fast_dev_run leaves no weights to upload; leave one of them out")
    output = settings.get("output")
    if output is not None and Path(output).suffix == ORIGINAL_SUFFIX:
        raise UserError(f"hub: {output} is a pickle, which is not shared; give --output a folder")
    if sharing is None:
        raise UserError("hub: only the program uploads; call eomt.push in Python")
    # without adapters a merged model is shared
    is_full = ((config.get("model") or {}).get("init_args") or {}).get("lora_config") is None
    sharing().check_shareable(config, settings.hub, is_merged=command == "merge" or is_full)


def upload(path: Path, name: str, sharing: Callable[[], Sharing]) -> None:
    """Upload what a command made.

    Raises:
        UserError: If the hub refuses it; what was made is kept.
    """
    try:
        show(sharing().push(path, name))
    except UserError as error:
        raise UserError(f"{first_line(error)}; {path} is kept: eomt push {path} {name}") from error
