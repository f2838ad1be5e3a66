"""The program: runs a command, and reports an error in one line.

A mistake that can be told without the larger libraries is told before they are loaded, which takes seconds.
"""

import argparse
import atexit
import contextlib
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from eomt.app.arguments import in_order
from eomt.app.launching import RayLaunch, launch_of
from eomt.app.log import set_up_output, silence_libraries
from eomt.app.messages import as_user_error, one_line
from eomt.app.signals import Ending, is_termination
from eomt.app.small_commands import answered
from eomt.app.trust import with_saved_config
from eomt.utils.output import lasting_output
from eomt.utils.rank import rank

# The guides' rule: idle OpenMP threads sleep, since spinning ones stall steps on shared machines. Precedes torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main(args: Sequence[str] | None = None) -> None:
    """Run a command.

    An error that the user can correct is printed as one line on stderr, and the exit status is 2.

    Args:
        args: Arguments of the command; None takes those of the process.
    """
    set_up_output()
    # where classes of the user's own lie; Python adds it for `python -m` alone
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    ending = Ending()
    with lasting_output(), ending.watched():
        try:
            given = list(sys.argv[1:] if args is None else args)
            if not answered(given, _push):
                launch, given = launch_of(given)
                if launch is not None:
                    _fit_on_ray(given, launch)
                    return
                given = with_saved_config(in_order(given))
                # whoever calls this from Python has a heap of their own
                with _resting_collector() if args is None else contextlib.nullcontext():
                    from eomt.app.command_line import CLI
                silence_libraries()
                CLI(given, sharing=_sharing, trial=_trial)
            # what cannot be written is an error here, and not one of Python's end
            sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(ending.status)
        except (Exception, SystemExit) as error:
            is_exit = isinstance(error, SystemExit) and ending.number is not None
            if is_exit or ending.is_at_once or is_termination(error):
                # Lightning exits with 1 or 0
                sys.exit(ending.status)
            if isinstance(error, SystemExit) and not error.code:
                # behind a help or a version, which torch is not loaded for
                raise
            user_error = as_user_error(error)
            if user_error is None or os.environ.get("EOMT_TRACEBACK"):
                raise
            who = f" (rank {rank()})" if rank() else ""
            print(f"error{who}: {one_line(user_error)}", file=sys.stderr)
            sys.exit(user_error.status)


def _push(given: argparse.Namespace) -> None:
    """Run `push`, whose libraries other commands do not need."""
    _sharing().push_as_asked(given)


def _fit_on_ray(given: list[str], launch: RayLaunch) -> None:
    """Train on a Ray cluster, whose processes run the command line themselves."""
    from eomt.app.ray_launch import fit_on_ray

    fit_on_ray(with_saved_config(in_order(given)), launch)


def _sharing() -> Any:
    """Return the module that uploads weights."""
    from eomt.sharing import push

    return push


def _trial() -> Any:
    """Return what a process of `sweep` does: it runs commands itself."""
    from eomt.app.trial import run_job

    return run_job


@contextlib.contextmanager
def _resting_collector() -> Iterator[None]:
    """Let Python's collector of cycles rest while libraries are loaded, and leave out later what they have made.

    It would walk through half a million objects that stay, again and again as their number grows, for a sixth of the
    time of loading.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(_end_collector)
        gc.enable()


def _end_collector() -> None:
    """Let Python end with one walk through its objects in place of two.

    That one has to see them all, or libraries of other languages complain of what is left.
    """
    gc.unfreeze()
    gc.disable()


def __getattr__(name: str) -> Any:
    """Return the class of the command line, which loads all libraries."""
    if name != "CLI":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from eomt.app.command_line import CLI

    return CLI
