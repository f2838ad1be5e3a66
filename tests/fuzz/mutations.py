"""Files that were valid, changed a little in ways in which files are damaged or forged."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

LONG_NAME = "n" * 300
DEEP = "[" * 20_000
# of values where others stand: other types, numbers out of all bounds, texts that are no names
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, -(2**70), 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "a", "0", "-1", "nan", "1e999", LONG_NAME, "a\0b"),
    *("\ud800", "\ufeff", "a\nb", "../../etc/passwd", "/", ".", "~", "(", "(([a-z._0-9]+)+)+X", "(?=a)", "\U0001f600"),
    *([], {}, [None], [[]], {"": 0}, {"a": {"b": []}}, [0, 1], [0.5, "a"], [2**70], ["a"], [[1, 2], [3]]),
]
# the same in a plain text
ODD_WORDS = [
    *("", "0", "-1", "1", "99999999999999999999999", "9" * 5000, "1e308", "1e999", "inf", "-inf", "nan", "NaN", "0.5"),
    *('"', "'", ",", ";", "\t", "\0", "\r", "\n", "\r\n", "\ufeff", "\u2028", "\x1c", "{", "[", "#", "&a", "*a", "!!x"),
    *(LONG_NAME, "../x", "/", "//", ".", "a b", "\U0001f600", "\u0130", "null", "true", "<<: *a", "? [a]", ": ", "- "),
    *("!!timestamp x", "2001-99-99", "0b_", "0x_", "!!float a", "!!int a", "!!bool a", "!!binary a", "=", "<<: 1"),
]
ENCODINGS = ["utf-8-sig", "utf-16", "utf-32", "utf-7", "cp1252", "cp037"]

Place = tuple[str | int, ...]


@st.composite
def mutated_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw bytes of which one to three parts were changed, cut out, doubled or put in."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 3))):
        # most of what is read lies near the beginning
        place = draw(st.one_of(st.integers(0, min(len(content), 200)), st.integers(0, len(content))))
        kind = draw(st.sampled_from(["flip", "cut", "end", "insert", "double", "number"]))
        if kind == "flip" and place < len(content):
            content[place] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[place : place + draw(st.integers(1, 40))]
        elif kind == "end":
            del content[place:]
        elif kind == "insert":
            content[place:place] = draw(st.binary(min_size=1, max_size=12))
        elif kind == "double":
            content[place:place] = content[place : place + draw(st.integers(1, 60))]
        else:
            content[place : place + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", draw(st.integers(0, 2**32 - 1)))
    return bytes(content)


@st.composite
def mutated_text(draw: st.DrawFn, valid: str) -> bytes:
    """Draw a text of which one to three words were replaced, lines moved, or which has another encoding."""
    text = valid
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 5, 20]))
        kind = draw(st.sampled_from(["word", "word", "any", "lines", "number"]))
        if kind == "lines":
            lines = text.split("\n")
            first, second = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
            lines[first], lines[second] = lines[second], lines[first] + draw(st.sampled_from(["", lines[first]]))
            text = "\n".join(lines)
        elif kind == "any":
            text = text[:start] + draw(st.text(max_size=6)) + text[end:]
        elif kind == "number":
            text = text[:start] + str(draw(st.one_of(st.integers(), st.floats()))) + text[end:]
        else:
            text = text[:start] + draw(st.sampled_from(ODD_WORDS)) + text[end:]
    encoding = draw(st.sampled_from(["utf-8"] * 12 + ENCODINGS))
    content = text.encode(encoding, "replace")
    return draw(mutated_bytes(content)) if draw(st.integers(0, 7)) == 0 else content


def places(value: Any, here: Place = ()) -> list[Place]:
    """Return the addresses of all values in a value."""
    found = [here]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        found += places(part, (*here, key))
    return found


def replaced(value: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """Return a value in which the one at a place is what `change` makes of it."""
    if not place:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(copy[place[0]], place[1:], change)
    return copy


def without(value: Any, place: Place) -> Any:
    """Return a value without the one at a place."""

    def drop(holder: Any) -> Any:
        if isinstance(holder, dict):
            return {key: part for key, part in holder.items() if key != place[-1]}
        return [part for index, part in enumerate(holder) if index != place[-1]]

    return replaced(value, place[:-1], drop) if place else None


@st.composite
def mutated_value(draw: st.DrawFn, valid: Any) -> Any:
    """Draw a value of JSON of which one to three parts were replaced, left out or added; also in texts with JSON."""
    value = valid
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(places(value)))
        kind = draw(st.sampled_from(["odd", "odd", "odd", "drop", "add", "any", "inside"]))
        if kind == "drop":
            value = without(value, place)
        elif kind == "any":
            leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
            new = draw(st.one_of(leaf, st.lists(leaf, max_size=3), st.dictionaries(st.text(max_size=4), leaf)))
            value = replaced(value, place, lambda _, new=new: new)
        elif kind == "add":
            new, name = draw(st.sampled_from(ODD_VALUES)), draw(st.sampled_from(["", "id", "more", LONG_NAME]))

            def add(old: Any, new: Any = new, name: str = name) -> Any:
                return old | {name: new} if isinstance(old, dict) else [*old, new] if isinstance(old, list) else new

            value = replaced(value, place, add)
        elif kind == "inside":
            value = replaced(value, place, lambda old: draw(_inside(old)))
        else:
            new = draw(st.sampled_from(ODD_VALUES))
            value = replaced(value, place, lambda _, new=new: new)
    return value


@st.composite
def _inside(draw: st.DrawFn, old: Any) -> Any:
    try:
        inner = json.loads(old)
    except (TypeError, ValueError, RecursionError):
        return old
    return draw(mutated_json(inner)).decode("utf-8", "replace")


@st.composite
def mutated_json(draw: st.DrawFn, valid: Any) -> bytes:
    """Draw a text of JSON, see `mutated_value`; some are no JSON any more, and some very deep."""
    if draw(st.integers(0, 40)) == 0:
        return DEEP.encode()
    text = json.dumps(draw(mutated_value(valid)), ensure_ascii=draw(st.booleans()))
    content = text.encode(draw(st.sampled_from(["utf-8"] * 12 + ENCODINGS)), "replace")
    return draw(mutated_bytes(content)) if draw(st.integers(0, 7)) == 0 else content


@st.composite
def mutated_safetensors(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw a safetensors file whose header was changed as JSON, or any of its bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated_bytes(valid))
    length = struct.unpack("<Q", valid[:8])[0]
    value = json.loads(valid[8 : 8 + length])
    if "__metadata__" in value and draw(st.booleans()):
        value["__metadata__"] = draw(mutated_value(value["__metadata__"]))
        # anything else than texts is refused by the reader itself
        if isinstance(value["__metadata__"], dict) and draw(st.booleans()):
            value["__metadata__"] = {key: str(part) for key, part in value["__metadata__"].items()}
    else:
        value = draw(mutated_value(value))
    header = json.dumps(value).encode()
    return struct.pack("<Q", len(header)) + header + valid[8 + length :]


@st.composite
def mutated_zip(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw a zip file, such as PyTorch's, of which one member was changed, or any of its bytes."""
    if draw(st.integers(0, 2)) == 0:
        return draw(mutated_bytes(valid))
    source, target = zipfile.ZipFile(io.BytesIO(valid)), io.BytesIO()
    chosen = draw(st.sampled_from(source.namelist()))
    with zipfile.ZipFile(target, "w") as written:
        for name in source.namelist():
            content = source.read(name)
            written.writestr(name, draw(mutated_bytes(content)) if name == chosen else content)
    return target.getvalue()
