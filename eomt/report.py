"""What came of runs, from their files: a table, a page, or a comparison. `python -m eomt.report [RUN ...] [--html]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eomt.errors import UserError, printable
from eomt.reports.closing_table import print_report, report
from eomt.reports.run_files import SUMMARY, is_run, newest_run, verdict
from eomt.utils.output import lasting_output

__all__ = ["SUMMARY", "main", "newest_run", "print_report", "report", "verdict"]

# of pages
SUFFIXES = ("html", "htm")
# how a page begins
DOCTYPE = b"<!doctype html"
# what `--html` holds without a path
BESIDE = ""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m eomt.report", description="Prints the table of a run, or compares several."
    )
    made.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="a run, a folder of runs, or several runs")
    made.add_argument(
        "--html",
        nargs="?",
        const=BESIDE,
        metavar="PATH",
        help="write a page: of one run into its folder as report.html, unless a PATH is given; of several to PATH",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on runs as a command line says; return the exit status.

    Args:
        arguments: Words of the command line; None takes the program's.
    """
    given = parser().parse_args(arguments)
    try:
        runs = given.runs or [Path("runs")]
        if given.html and Path(given.html).is_dir():
            raise UserError(f"html: {given.html} is a folder; write RUN --html, or give the name of a file")
        if given.html and (given.html.rpartition(".")[2].lower() not in SUFFIXES or not _is_page(Path(given.html))):
            raise UserError(f"html: {given.html}: no page stands there, and it would be lost; give a new name in .html")
        if len(runs) > 1:
            _compare(runs, given.html)
        elif given.html is None:
            print_report(newest_run(runs[0]))
        else:
            # templates, pictures and YAML are not needed for a table
            from eomt.reports.page import write_page

            # a run that has not ended has a page, too
            folder = runs[0] if is_run(runs[0]) else newest_run(runs[0])
            print(printable(str(write_page(folder, Path(given.html) if given.html else None))))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    return 0


def _is_page(path: Path) -> bool:
    """Return whether a page may be written to a path: nothing is there, or a page."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return file.read(len(DOCTYPE)).lower() == DOCTYPE


def _compare(folders: Sequence[Path], html: str | None) -> None:
    if html == BESIDE:
        raise UserError("html: of several runs, a page needs a name; give one: --html comparison.html")
    from eomt.reports.comparison import compare, print_comparison, write_comparison

    compared = compare(folders)
    print_comparison(compared)
    if html is not None:
        print(printable(str(write_comparison(compared, Path(html)))))


if __name__ == "__main__":
    with lasting_output():
        sys.exit(main())
