"""Bounds of YAML that anybody may have written."""

import yaml

from eomt.errors import UserError

# ours have some ten levels and a thousand values
MOST_DEPTH = 50
MOST_VALUES = 100_000
# what reading YAML raises: beside its own errors those of its readers of dates, numbers and tags, and of deep nesting
YAML_ERRORS = (*(yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError),)


def check_yaml(text: str, place: str = "YAML") -> None:
    """Check that a text in YAML is not nested deeply, and small with its aliases written out.

    A list of nine aliases of a list of nine aliases, and so on ten times, is a file of a few lines that stands for
    three billion values. Reading it takes no time, for its lists are one and the same; whatever walks through them
    never ends. A text that is no YAML is left to whoever reads it.

    Args:
        text: Of a file or an option.
        place: Where it stands, for messages.

    Raises:
        UserError: If it is deeper, or larger.
    """
    # an anchor's depth and values, and those of what is open
    anchors: dict[str, tuple[int, int]] = {}
    within: list[tuple[str | None, int, int]] = []
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                within.append((event.anchor, 0, 1))
                found = (0, 0)
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, depth, values = within.pop()
                found = (depth + 1, values)
                if anchor is not None:
                    anchors[anchor] = found
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in anchors and any(event.anchor == anchor for anchor, _, _ in within):
                    raise UserError(f"{place}: {event.anchor} contains itself; write out what is meant")
                found = anchors.get(event.anchor, (0, 1))
            else:
                found = (0, int(isinstance(event, yaml.ScalarEvent)))
            if within:
                anchor, depth, values = within[-1]
                within[-1] = (anchor, max(depth, found[0]), values + found[1])
                if len(within) + found[0] > MOST_DEPTH or values + found[1] > MOST_VALUES:
                    raise UserError(
                        f"{place}: has more than {MOST_DEPTH} levels or {MOST_VALUES} values, its aliases (*) counted "
                        "as often as they stand there; write a smaller one"
                    )
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, UserError):
            raise
