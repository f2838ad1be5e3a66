"""Tables of results."""

from pathlib import Path

from callbacks.results.answers import PREDICT_COLUMNS, _write_answers
from datamodules.common.tables import read_table


def test_a_name_that_is_no_text_costs_no_other_row(tmp_path: Path) -> None:
    """Data modules of others may give such names, and no answer at all was written."""
    names = ("a.png", "caf\udce9.png", "b\nc.png")
    rows = [dict.fromkeys(PREDICT_COLUMNS, "x") | {"name": name} for name in names]
    _write_answers(tmp_path / "1_answers.csv", PREDICT_COLUMNS, rows)
    _, written = read_table(tmp_path / "1_answers.csv")
    assert [cells[0] for _, cells in written] == ["a.png", r"caf\udce9.png", "b\nc.png"]
    assert r"caf\udce9.png" in (tmp_path / "1_vqav2.json").read_text()
