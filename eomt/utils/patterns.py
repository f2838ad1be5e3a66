"""Regular expressions that stand in files and options, matched in a time that grows with the text alone."""

import re2

from eomt.errors import UserError, shortened

MOST_CHARACTERS = 1000


class Pattern:
    """A regular expression in RE2's syntax, which is Python's without lookaround and references back.

    Python's matcher tries every way in which a pattern may fit, and `(([a-z]+)+)+X` has more of them for a name of
    forty letters than any machine can try; others, such as `((a{999}){999}){999}`, take all memory. RE2 tries all ways
    at once, and refuses what takes more than some megabytes (https://swtch.com/~rsc/regexp/regexp1.html).

    Args:
        text: The pattern.
        place: File or field it stands in, for messages.

    Raises:
        UserError: If it is no such expression, or very long.
    """

    def __init__(self, text: str, place: str) -> None:
        if len(text) > MOST_CHARACTERS:
            raise UserError(
                f"{place}: {shortened(text)!r} has {len(text)} characters, of at most {MOST_CHARACTERS} in a pattern; "
                "give a shorter one"
            )
        options = re2.Options()
        # it would print them
        options.log_errors = False
        try:
            self._compiled = re2.compile(_encodable(text), options)
        except re2.error as error:
            reason = error.args[0] if error.args else error
            reason = shortened(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason))
            raise UserError(
                f"{place}: {shortened(text)!r} is no regular expression ({reason}); write one in RE2's syntax, without "
                "lookaround and references back"
            ) from error

    def fits(self, text: str) -> bool:
        """Return whether the pattern matches a whole text."""
        return self._compiled.fullmatch(_encodable(text)) is not None

    def found_in(self, text: str) -> list[str]:
        """Return what each match in a text, or its first group where the pattern has one, consists of."""
        group = 1 if self._compiled.groups else 0
        return [match.group(group) or "" for match in self._compiled.finditer(_encodable(text))]


def _encodable(text: str) -> str:
    """Return a text with question marks for halves of characters, which names of files may hold, and RE2 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
