"""`--launcher ray --num_workers N`: where the processes of a command run; read before torch is loaded."""

from dataclasses import dataclass

from eomt.app.arguments import option_value
from eomt.errors import UserError, shortened

LAUNCHERS = ("local", "ray")
OPTIONS = ("--launcher", "--num_workers")
# they are no part of a run's configuration, and so no options of the parser
HELP = (
    "Where it runs: --launcher {local,ray} takes this machine (the default), or the Ray cluster of RAY_ADDRESS; with "
    "ray, --num_workers N is the number of processes (default 1). See docs/scaling.md."
)


@dataclass(frozen=True)
class RayLaunch:
    """A training on a Ray cluster.

    Attributes:
        num_workers: Number of its processes.
    """

    num_workers: int


def checked_launcher(launcher: str) -> str:
    """Return the name of a launcher.

    Raises:
        UserError: If there is none of this name.
    """
    if launcher not in LAUNCHERS:
        raise UserError(f"launcher: {shortened(launcher)!r}; must be {' or '.join(LAUNCHERS)}")
    return launcher


def launch_of(args: list[str]) -> tuple[RayLaunch | None, list[str]]:
    """Return what the options of `fit` say, None for a start on this machine alone, and the other arguments.

    `sweep` has options of its own.

    Raises:
        UserError: If a value is not allowed, or a command looks at neither option.
    """
    given = {name: value for name in OPTIONS if (value := option_value(args, name)) is not None}
    if not given or "sweep" in args[:1]:
        if "--num_workers" in given:
            raise UserError("--num_workers: sweep counts trainings at a time; give --workers")
        return None, args
    if args[0] != "fit":
        raise UserError(f"{next(iter(given))}: {shortened(args[0])} has no launcher; fit and sweep have one")
    launcher = checked_launcher(given.get("--launcher", "local"))
    if launcher != "ray":
        if "--num_workers" in given:
            raise UserError("--num_workers: is for --launcher ray; on this machine give --trainer.devices")
        return None, _without(args)
    number = given.get("--num_workers", "1")
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"--num_workers: {shortened(number)}; must be a whole number of at least 1")
    return RayLaunch(int(number)), _without(args)


def _without(args: list[str]) -> list[str]:
    """Return arguments without the options of launchers."""
    kept: list[str] = []
    skips = False
    for arg in args:
        if skips:
            skips = False
        elif arg in OPTIONS:
            skips = True
        elif arg.partition("=")[0] not in OPTIONS:
            kept.append(arg)
    return kept
