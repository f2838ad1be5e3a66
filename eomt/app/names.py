"""Texts on the command line and names in YAML, as they were written: `no` is a name, not false."""

from enum import Enum
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader

from eomt.app.renamed import with_new_names
from eomt.errors import UserError
from eomt.utils.yaml_bounds import check_yaml

# of plain scalars
TEXT, TRUTH, NOTHING = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "bool", "null"))
DEFAULT = get_loader("yaml")


class WrittenDict(dict[Any, Any]):
    """What YAML sees in a text such as `Which one: left or right?`, with the text itself.

    jsonargparse reads an option of a component as YAML before it knows the type of the field, and hands on what it
    found to the component's own parser, which does: as a str, or as it is (see `as_written`).
    """

    # jsonargparse copies what has a __dict__ by that
    __slots__ = ("written",)
    written: str

    def __str__(self) -> str:
        return getattr(self, "written", super().__repr__())


class WrittenList(list[Any]):
    """The same of a text such as `[bg, no]` or `- a`."""

    # jsonargparse copies what has a __dict__ by that
    __slots__ = ("written",)
    written: str

    def __str__(self) -> str:
        return getattr(self, "written", super().__repr__())


def load(text: str) -> Any:
    """Return what YAML holds, as jsonargparse does but for names, and for fields that had another name before.

    - In a list with names alone or among other plain values, all are texts: `[bg, no, 1e3]`.
    - `no`, `on`, `yes` and `off` are texts in lists and as keys.
    - What is only one line keeps its text, see `WrittenDict`; a mere comment is that text.

    Args:
        text: Of an option, or of a file.
    """
    found = _values(text) if isinstance(text, str) else None
    if isinstance(found, dict | list):
        loader: Any = yaml.SafeLoader(text)
        try:
            _correct(loader.get_single_node(), found)
        finally:
            loader.dispose()
    found = with_new_names(found)
    if "\n" in text:
        return found
    if found is None:
        return text
    if isinstance(found, dict | list):
        kept: Any = (WrittenDict if isinstance(found, dict) else WrittenList)(found)
        kept.written = text
        return kept
    return found


def _values(text: str) -> Any:
    """Return what YAML holds; jsonargparse expects no other errors than YAML's, which its numbers and dates raise."""
    check_yaml(text)
    try:
        return DEFAULT(text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise yaml.YAMLError(f"a value is not of its type ({error})") from error


def _correct(node: Any, found: Any) -> None:
    """Put the texts back that `load` tells of, in place."""
    if isinstance(node, yaml.SequenceNode) and isinstance(found, list):
        plain = all(isinstance(item, yaml.ScalarNode) for item in node.value)
        named = plain and any(_is_text(item) for item in node.value)
        for place, item in enumerate(node.value):
            if named or _is_word(item):
                found[place] = item.value
            else:
                _correct(item, found[place])
    elif isinstance(node, yaml.MappingNode) and isinstance(found, dict):
        written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((name for name in written if written.count(name) > 1 and name != "<<"), None):
            raise UserError(f"{twice}: stands twice in one mapping; leave one out")
        values = list(found.values())
        # a merged mapping (<<) has other keys than are written there
        if len(values) != len(node.value):
            for key, item in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in found:
                    _correct(item, found[key.value])
            return
        keys = [
            key.value if isinstance(key, yaml.ScalarNode) and key.tag in (TRUTH, NOTHING) else old
            for (key, _), old in zip(node.value, list(found), strict=True)
        ]
        found.clear()
        found.update(zip(keys, values, strict=True))
        for (_, item), value in zip(node.value, values, strict=True):
            _correct(item, value)


def _is_text(node: Any) -> bool:
    return node.tag == TEXT or _is_word(node)


def _is_word(node: Any) -> bool:
    """Return whether a node is what only old YAML takes for a truth value."""
    return isinstance(node, yaml.ScalarNode) and node.tag == TRUTH and node.value.lower() not in ("true", "false")


def as_written(options: Any) -> Any:
    """Return the options of a component with the texts that were written, so that their types decide what they are."""
    if not isinstance(options, Namespace | dict):
        return options
    found = vars(options) if isinstance(options, Namespace) else options
    for name, value in found.items():
        if isinstance(value, WrittenDict | WrittenList):
            # a copy, of what has been read with its type already, has no text
            found[name] = getattr(value, "written", None) or plain(value)
    return options


def plain(value: Any) -> Any:
    """Return a configuration whose lists and dicts are plain ones again; namespaces are changed in place."""
    if isinstance(value, Namespace):
        for name, inner in vars(value).items():
            setattr(value, name, plain(inner))
        return value
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, Enum) and isinstance(value, str):
        # the default of a field of texts, which no YAML file can hold
        return value.value
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def read_yaml_by_our_rules() -> None:
    """Let jsonargparse read all YAML by `load`, in this process."""
    set_loader("yaml", load, exceptions=(yaml.YAMLError,))
