"""The commands that build no task: `configs`, `completion`, `push`, `--version`, and the help of all commands.

They load no large library until they know what to do.
"""

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import eomt
from eomt.app.arguments import COMMANDS, SMALL_COMMANDS
from eomt.app.log import show
from eomt.app.shipped import LIST, find_shipped, not_shipped, purpose, shipped_names
from eomt.errors import UserError
from eomt.utils.files import write_file
from eomt.utils.paths import expand

SHELLS = ("bash", "zsh")
HELP = {
    "fit": "train; the base as it came is validated first, and every adapter is audited",
    "validate": "measure weights on validation images",
    "test": "measure weights on test images, and write results/",
    "predict": "write what weights say of new images",
    "inspect": "show what a fit would train, its size, memory and data, and audit it; nothing is trained",
    "merge": "write the stand-alone network of a checkpoint or adapter, after a comparison",
    "export": "write graphs (ONNX, OpenVINO, torch.export) that their own runtime has proven",
    "demo": "show a page to try a model on, on this machine",
    "sweep": "find the way of training and the learning rate that are best for a data set, within a budget",
    "configs": "list the configurations that come with the package, or copy them",
    "completion": "print a script with which a shell completes commands and options",
    "push": "upload weights to the Hugging Face hub, with a model card",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are of one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError, where argparse would print its usage."""
        raise UserError(f"{self.prog.removeprefix('eomt ')}: {message}; {self.prog} --help shows what there is")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the small commands, which names the others for the help and for completion."""
    parser = _Parser(
        prog="eomt",
        description="LoRA for vision foundation models on small data.",
        epilog="`eomt fit --config eomt_lora` takes a configuration by its name or its path. "
        "`eomt COMMAND --help` shows the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"eomt {eomt.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        commands.add_parser(name, help=HELP[name], add_help=False)
    configs = commands.add_parser("configs", help=HELP["configs"], description=f"{HELP['configs']}.".capitalize())
    actions = configs.add_subparsers(title="actions", dest="action", metavar="ACTION")
    copy = actions.add_parser(
        "copy",
        help="copy one, or all, to a folder",
        description="Copy a configuration, or all, to a folder. A file that exists is never written over.",
    )
    copy.add_argument("name", nargs="?", metavar="NAME", help=f"which one; {LIST}")
    copy.add_argument("folder", nargs="?", metavar="FOLDER", help="where to; the current folder if not given")
    copy.add_argument("--all", action="store_true", help="copy all, with the folder quickstart/")
    completion = commands.add_parser(
        "completion",
        help=HELP["completion"],
        description="Print a script with which a shell completes commands and options; it takes some seconds.",
    )
    completion.add_argument("shell", choices=SHELLS)
    push = commands.add_parser(
        "push", help=HELP["push"], description="Upload weights to the Hugging Face hub, with a model card."
    )
    push.add_argument("path", metavar="PATH", help="a run (its best weights), an adapter folder or a merged folder")
    push.add_argument("name", metavar="USER/NAME", help="the repository; it is made if need be")
    push.add_argument(
        "--base", metavar="USER/NAME", help="repository of the base's weights, where they are a local path"
    )
    push.add_argument("--license", help="licence, as the hub calls it: apache-2.0, mit, ...; else that of the base")
    push.add_argument("--public", action="store_true", help="let everybody see a new repository")
    push.add_argument("--dry_run", metavar="FOLDER", help="write what would be uploaded, and stop there")
    return parser


def answered(args: list[str], push: Callable[[argparse.Namespace], None]) -> bool:
    """Run a small command, and return True; return False for any other.

    Args:
        args: Arguments of the program.
        push: Runs `push` with its arguments.

    Raises:
        UserError: If there are none, or if a small command cannot be run with them.
        SystemExit: Behind the help or the version.
    """
    if not args:
        raise UserError(f"command: not given; there are {', '.join((*COMMANDS, *SMALL_COMMANDS))} (eomt --help)")
    if args[0] not in (*SMALL_COMMANDS, "--version") and args not in (["--help"], ["-h"]):
        return False
    parser = make_parser()
    given = parser.parse_args(args)
    if given.command == "completion":
        # loads what says which options there are
        from eomt.app.completion import script

        print(script(parser, given.shell))
    elif given.command == "push":
        push(given)
    elif given.action == "copy":
        # with --all, the first and only place is the folder
        name, folder = (None, given.name) if given.all and given.folder is None else (given.name, given.folder)
        _copy(name, expand(folder or "."), given.all)
    else:
        width = max(map(len, shipped_names()))
        for name in shipped_names():
            file = find_shipped(name)
            show(f"{name:{width}}  {purpose(file) if file else ''}")
    return True


def _copy(name: str | None, folder: Path, is_all: bool) -> None:
    """Copy a shipped configuration, or all, to a folder.

    Raises:
        UserError: If there is none of that name, or a file cannot be written or exists, in which case none is written.
    """
    if (name is None) != is_all:
        raise UserError("configs copy: " + ("a name and --all; give one of them" if name else "give a name, or --all"))
    if name is None:
        # with their folder, since two may have one file name
        targets = {file: folder / f"{known}.yaml" for known in shipped_names() if (file := find_shipped(known))}
    else:
        found = find_shipped(name)
        if found is None:
            raise UserError(f"configs copy: {name} is none; give {not_shipped(name)}")
        targets = {found: folder / found.name}
    for target in targets.values():
        # a link that leads nowhere would be replaced, too
        if target.exists() or target.is_symlink():
            raise UserError(f"{target}: exists, and is not written over; give another folder")
    for file, target in targets.items():
        write_file(target, partial(shutil.copyfile, file))
        show(str(target))
