"""The error for mistakes that a user can correct, and lists in its message."""

from collections.abc import Iterable

# characters of the longest message; a longer one holds a value of the user's, which may be a whole file
MOST_CHARACTERS = 1000


class UserError(ValueError):
    """A mistake in a file, a field or a command line.

    Its message is one line: the file or field, what was found there, and what would do instead. The command line prints
    it without a traceback and exits with status 2. What is far too long for a line is cut in the middle.

    Attributes:
        status: The exit status.
    """

    status = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message, MOST_CHARACTERS))


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
