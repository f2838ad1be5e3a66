"""A table of figures that somebody edited."""

from pathlib import Path

import pytest

from callbacks.run.metrics_file import MetricsFile
from eomt.errors import UserError


@pytest.mark.parametrize(
    "content", [b"stop,loss\n1,2\n", b"step,loss\nx,2\n", b"step,loss\n\xff\xfe,2\n", b"step\n1\n\n"]
)
def test_a_damaged_table_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "metrics.csv"
    file.write_bytes(content)
    table = MetricsFile(file)
    if content.endswith(b"\n\n"):
        table.resume(3)
        assert table.rows == [{"step": "1"}]
        return
    with pytest.raises(UserError, match=r"metrics\.csv: is no table of a run"):
        table.resume(3)
    assert file.read_bytes() == content
