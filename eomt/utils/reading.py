"""The one reader of text and JSON that anybody may have written: only regular files, bounded, checked by a schema."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from eomt.errors import UserError, shortened

# the largest files of data sets, COCO's and VQAv2's annotations, have some 400 MB
MOST_BYTES = 2**30

# of fields of schemas: whole numbers that fit into 64 bits, and numbers that are not NaN or infinite
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Whole | FiniteFloat
Text = Annotated[str, Field(min_length=1)]

# how addresses of problems call the members of a union
MEMBERS = ("int", "float", "str", "constrained-int", "constrained-float", "constrained-str")

Found = TypeVar("Found")

ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)
FIELDS: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def check_regular(file: Path, remedy: str) -> None:
    """Check that a path is a file that can be read to its end: a pipe or a device may never end.

    Args:
        file: Path to look at; links are followed.
        remedy: What would do, for messages.

    Raises:
        UserError: If it is none.
    """
    _regular_size(file, remedy)


def _regular_size(file: Path, remedy: str) -> int:
    try:
        found = os.stat(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); {remedy}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{file}: cannot be read: it is no regular file; {remedy}")
    return found.st_size


def read_text(file: Path, remedy: str) -> str:
    """Return the text of a file in UTF-8, with or without a mark that says so.

    Args:
        file: Path of the file.
        remedy: What would do, for messages.

    Raises:
        UserError: If it cannot be read, or is in another encoding.
    """
    if (size := _regular_size(file, remedy)) > MOST_BYTES:
        raise UserError(f"{file}: has {size} bytes, of at most {MOST_BYTES} that are read; {remedy}")
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: cannot be read as text in UTF-8 ({error.reason}); {remedy}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({_reason(error)}); {remedy}") from error


def read_json(file: Path, schema: TypeAdapter[Found], remedy: str) -> Found:
    """Return what a JSON file holds.

    Args:
        file: Path of the file.
        schema: What it must hold; numbers, texts and truth values do not stand for one another.
        remedy: What would do, for messages.

    Raises:
        UserError: If it cannot be read, is nested too deeply, or holds anything else.
    """
    return parse_json(read_text(file, remedy), schema, str(file), remedy)


def parse_json(text: str, schema: TypeAdapter[Found], place: str, remedy: str) -> Found:
    """Return what a text in JSON holds, see `read_json`; `place` says in messages where it stands."""
    try:
        # bytes, for a text may hold halves of characters, which no encoding has
        return schema.validate_json(text.encode("utf-8", "replace"), strict=True)
    except ValidationError as error:
        raise UserError(f"{place}: {_first_problem(error, _id_of(text, error))}; {remedy}") from error


def checked(value: Any, schema: TypeAdapter[Found], place: str, remedy: str) -> Found:
    """Return a value that was read by a library, after a look at its types and bounds, see `read_json`."""
    try:
        return schema.validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{place}: {_first_problem(error)}; {remedy}") from error


def _id_of(text: str, error: ValidationError) -> str:
    """Return the id of the entry in which a JSON text has its first problem, in words; "" where it has none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    named = ""
    for part in error.errors(include_url=False, include_context=False)[0]["loc"]:
        try:
            found = found[part]
        except (LookupError, TypeError):
            continue
        if isinstance(found, dict) and isinstance(found.get("id"), int | str):
            named = f" (id {shortened(repr(found['id']))})"
    return named


def _first_problem(error: ValidationError, named: str = "") -> str:
    """Return the first of the problems that a schema found, with the address of the field, and `named` behind it."""
    found = error.errors(include_url=False, include_context=False)[0]
    if found["type"] == "json_invalid":
        return f"cannot be read as JSON ({found['msg'].removeprefix('Invalid JSON: ')})"
    parts = [str(part) for part in found["loc"]]
    address = ".".join(shortened(part) for part in parts if part not in MEMBERS and not part.endswith("]"))
    if found["type"] == "missing":
        return f"has no {address}{named}"
    must = re.sub("^[A-Z][a-z]+ should", "must", found["msg"]).replace(" after validation", "")
    return f"{address or 'it'}{named} is {shortened(repr(found['input']), 60)}, but {must}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
