"""The audit of files: `python -m eomt.audit ADAPTER [--base BASE]`.

`eomt.audit` is a function too, of a model and a batch: this module can be called as it, so that importing the one does
not hide the other.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from eomt.errors import UserError, printable
from eomt.utils.output import lasting_output

if TYPE_CHECKING:
    from eomt.verification import AuditReport

PICTURES = (".png", ".pdf", ".svg")
STATUS = "exit status: 0 sound, 1 a fault was found, 2 a file cannot be read"


class _Audit(ModuleType):
    """This module, which can be called as `eomt.verification.audit`."""

    def __call__(self, *args: Any, **arguments: Any) -> "AuditReport":
        from eomt.verification import audit

        return audit(*args, **arguments)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m eomt.audit",
        description="Says what is in an adapter's files, and what is wrong with them.",
        epilog=STATUS,
    )
    made.add_argument("adapter", type=Path, help="adapter folder, checkpoint, or weights (.safetensors, .pt, .bin)")
    made.add_argument("--base", type=Path, help="file or folder of the weights that it is for")
    made.add_argument("--json", metavar="FILE", help="write the report as JSON; - prints it in place of the text")
    made.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the norms of the updates by layer")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit files as a command line says; return the exit status.

    Args:
        arguments: Words of the command line; None takes the program's.
    """
    given = parser().parse_args(arguments)
    try:
        # slow to import, and not needed for --help
        from eomt.utils.files import write_file
        from eomt.verification.stored.report import audit_files

        _check_outputs(given.json, given.plot)
        report = audit_files(given.adapter, given.base)
        if given.plot is not None and not report.layers:
            raise UserError("plot: there are no adapters to draw; leave --plot out")
        text = json.dumps(report.to_dict(), indent=2, allow_nan=False)
        print(printable_lines(text if given.json == "-" else str(report)))
        if given.json not in (None, "-"):
            write_file(Path(given.json), lambda beside: beside.write_text(text + "\n"))
        if given.plot is not None:
            from eomt.verification.stored.norm_plot import plot_norms

            plot_norms(report, given.plot)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0 if report.is_sound else 1


def _check_outputs(text: str | None, picture: Path | None) -> None:
    """Check the names of what will be written, before anything is read.

    Raises:
        UserError: If one is a folder, or in none, or a picture has no ending of one.
    """
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise UserError(f"plot: {picture} is no picture; give a name that ends with {' or '.join(PICTURES)}")
    for option, file in (("json", text), ("plot", picture)):
        if file is not None and Path(file).is_dir():
            raise UserError(f"{option}: {file} is a folder; give the name of a file")
        if file not in (None, "-") and not (folder := Path(file).absolute().parent).is_dir():
            raise UserError(f"{option}: {folder} is no folder; make it first, or give another name")


def printable_lines(text: str) -> str:
    """Return lines in which what a terminal would obey is written out."""
    return "\n".join(map(printable, text.split("\n")))


sys.modules[__name__].__class__ = _Audit

if __name__ == "__main__":
    with lasting_output():
        sys.exit(main())
