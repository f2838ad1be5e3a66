"""The parser of command line and configuration, whose errors name the field, what was found and what would do."""

import ast
import difflib
import re
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from eomt.app.arguments import COMMANDS, SMALL_COMMANDS
from eomt.app.launching import HELP
from eomt.app.messages import one_line
from eomt.app.names import as_written
from eomt.errors import UserError, listed, shortened

KEY = re.compile(r'Parser key "([^"]+)":')
VALUE = re.compile(r"(?:Got|Given) value: (.*)")
NO_CLASS = re.compile(r"dot import path string: (.*)")
NO_IMPORT = re.compile(r"Problem with given class_path '([^']+)':\s+(.*)")
CLASS = re.compile(r"Expected a <class '(?:\w+\.)*(\w+)'>")
CHOICES = re.compile(r"Expected a typing\.Literal(\[.*?\])(?:\s|$)")
# of the parsers of commands
SETTINGS = {"fit": {"epilog": HELP}}
# arguments of the parser itself
HIDDEN = ("help", "config", "print_config", "subcommand", "==SUPPRESS==")
# what a user calls the types of values
WORDS = {"NoneType": "null", "bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text"}
WORDS |= {"list": "a list", "dict": "a mapping", "Iterable": "a list"}


class ParserError(UserError):
    """A mistake in an option or a field, found by the parser of a component."""


class Parser(LightningArgumentParser):
    """A parser that reports a bad argument as a UserError of one line, and takes no option by its first letters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        """Raise a UserError, where jsonargparse would print its usage and exit."""
        error = ex if ex is not None else ValueError(message)
        key = KEY.match(str(error))
        if inner := _inner(error):
            # of a component inside: the field's address grows from the inside out
            text = str(inner)
            raise ParserError(f"{key[1]}.{text}" if key and not text.startswith(f"{key[1]}:") else text)
        raise ParserError(self._explained(error))

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Return what arguments say; null in an option of a component inside a component, too."""
        # jsonargparse hands such an option on to the parser of the outer component, as a text that Python makes
        if args is not None and "defaults" in kwargs:
            args = [re.sub(r"^(--[^=.]+\.[^=]+)=None$", r"\1=null", arg) for arg in args]
        return super().parse_args(args, *others, **kwargs)

    def parse_object(self, cfg_obj: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Return what a component is given, with names and texts as they were written."""
        return super().parse_object(as_written(cfg_obj), *args, **kwargs)

    def _explained(self, error: Exception) -> str:
        """Return the message of a mistake in one line."""
        text = str(error)
        if unknown := re.search(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'", text):
            return self._unknown_field(next(filter(None, unknown.groups())))
        if unknown := re.search(r"unrecognized arguments: --([^\s=]+)", text):
            return self._unknown_field(unknown[1])
        if missing := re.search(r"arguments are required: (.*)", text):
            names = missing[1].replace("fit.", "")
            return f"{names}: not given, or null; give it, or a file with it: --config FILE"
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", text):
            return f"{choice[1]}: no such command; there are {', '.join((*COMMANDS, *SMALL_COMMANDS))}"
        key, value = KEY.match(text), VALUE.search(text)
        if key is None:
            return one_line(error)
        if failed := NO_IMPORT.search(text):
            return f"{key[1]}: {failed[1]} cannot be imported ({failed[2]}); give the class_path of one that can"
        if other := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
            return f"{key[1]}: {other[1]} is no {other[2]}; give the class_path of one"
        if (group := re.search(r"Unable to load config '(.*)'", text)) and value is None:
            return f"{key[1]}: {group[1]}; must be a mapping, or a file with one"
        expected = [WORDS.get(name, name) for name in CLASS.findall(text)]
        for choices in CHOICES.findall(text):
            expected += map(str, ast.literal_eval(choices))
        if no_class := NO_CLASS.search(text):
            expected.insert(0, "a class_path that can be imported")
            value = value or no_class
        if not expected or value is None:
            return f"{key[1]}: {KEY.sub('', one_line(error)).strip()}"
        # null last
        words = listed(sorted(dict.fromkeys(expected), key="null".__eq__))
        found = {"None": "null", "True": "true", "False": "false"}.get(value[1], shortened(value[1].strip(), 80))
        return f"{key[1]}: {found}; must be {words}"

    def _unknown_field(self, name: str) -> str:
        parsers = [self, *(getattr(self._subcommands_action, "_name_parser_map", {}) or {}).values()]
        known = [action.dest for parser in parsers for action in parser._actions]
        known = list(
            dict.fromkeys(dest for dest in known if dest not in HIDDEN and dest[0] != "_" and dest[-5:] != ".help")
        )
        parts = [dest for dest in known if dest.startswith(f"{name.rpartition('.')[0]}.")]
        near = difflib.get_close_matches(name if parts else name.partition(".")[0], parts or known, 1)
        return f"{name}: no such field; " + (f"did you mean {near[0]}?" if near else f"there are {listed(known)}")


def _inner(error: BaseException | None) -> ParserError | None:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, ParserError):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
