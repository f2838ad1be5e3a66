"""16.3: whatever a file holds, it is read, or refused in one line; nothing else is raised, and nothing takes long."""

import contextlib
import io
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given

from eomt.app.messages import as_user_error, one_line
from tests.fuzz.readers import READERS, Reader

# of a file of some kilobytes, on a machine that does something else
MOST_SECONDS = 5.0


def read_or_refused(reader: Reader, file: Path) -> None:
    start = time.monotonic()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            reader.read(file)
    except Exception as error:
        refusal = as_user_error(error)
        if refusal is None:
            raise
        assert one_line(refusal)
        assert "\n" not in one_line(refusal)
    assert time.monotonic() - start < MOST_SECONDS


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
def test_a_damaged_or_forged_file_is_read_or_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    file = reader.write(tmp_path)
    # what is changed is a valid file
    reader.read(file)

    @given(reader.mutated(file.read_bytes()))
    def check(content: bytes) -> None:
        file.write_bytes(content)
        read_or_refused(reader, file)

    check()
