"""What the one reader of JSON says of files that hold something else."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from eomt.errors import UserError
from eomt.utils.reading import read_json


class Entry(TypedDict):
    id: int
    value: int


class File(TypedDict):
    entries: list[Entry]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"entries": [{"id": 7, "value": 1}, {"id": 9, "value": 1.5}]}',
            r"entries\.1\.value \(id 9\) is 1\.5, but must",
        ),
        ('{"entries": [{"id": 7}]}', r"has no entries\.0\.value \(id 7\)"),
        ('{"entries": [{"value": 1}]}', r"has no entries\.0\.id; "),
        ('{"entries": [{"id": "' + "x" * 400 + '", "value": 1}]}', r"entries\.0\.id \(id .{1,60}\) is"),
        ('{"entries": 3}', "entries is 3, but must"),
        ("[", "cannot be read as JSON"),
    ],
)
def test_a_problem_names_the_id_of_its_entry(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_json(file, TypeAdapter(File), "give another")
