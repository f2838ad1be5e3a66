"""The error for mistakes that a user can correct, and lists in its message."""

import unicodedata
from collections.abc import Iterable

# characters of the longest message; a longer one holds a value of the user's, which may be a whole file
MOST_CHARACTERS = 1000
# how the message of an error begins that a worker of a data loader sends: with a traceback
OF_WORKER = "Caught "
# categories of Unicode: control characters, bytes that no encoding knows, and ends of lines and paragraphs
UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
# what turns the direction of a line, so that it shows other words than it has
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class UserError(ValueError):
    """A mistake in a file, a field or a command line.

    Its message is one line: the file or field, what was found there, and what would do instead. The command line prints
    it without a traceback and exits with status 2. What is far too long for a line is cut in the middle, and what is no
    text, as in the name of a file, is written out, see `printable`.

    Attributes:
        status: The exit status.
    """

    status = 2

    def __init__(self, message: str = "") -> None:
        lines = [line.strip() for line in str(message).strip().splitlines()]
        if lines and lines[0].startswith(OF_WORKER):
            lines = [lines[-1].removeprefix("eomt.errors.UserError: ")]
        super().__init__(shortened(printable(" ".join(lines)), MOST_CHARACTERS))


def printable(text: str) -> str:
    r"""Return a text in which what a terminal would obey, or no encoding knows, is written out: `\x1b`, `\udce9`.

    A file may have any name, and whoever named it may mean to move the cursor or to retitle the window.
    """
    found = {letter for letter in text if letter in TURNING or unicodedata.category(letter) in UNPRINTABLE}
    return text.translate({ord(letter): letter.encode("unicode_escape").decode() for letter in found})


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 160 characters; the error's type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__


def shortened(text: str, most: int = 40) -> str:
    """Return a text of at most `most` characters, in whose middle "..." stands for what is left out."""
    if len(text) <= most:
        return text
    return f"{text[: (most - 3) // 2]}...{text[len(text) - (most - 2) // 2 :]}"


def listed(values: Iterable[object], most: int = 12) -> str:
    """Return values with commas for a message: long ones cut, none of more than `most`, and the number of all."""
    texts = [shortened(str(value)) for value in values]
    end = [f"... ({len(texts)} in all)"] if len(texts) > most else []
    return ", ".join(texts[:most] + end) or "none"


def counted(count: int, noun: str) -> str:
    """Return a number and its noun: 1 tensor, 2 tensors."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
