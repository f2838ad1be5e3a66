"""Tables as text: aligned, whole, and literal."""

from eomt.utils.tables import text_table


def test_cells_are_aligned_and_numbers_on_the_right() -> None:
    rows = [("score", "AuPRC"), ("max_logit", "0.5")]
    assert text_table(rows, numbers=(1,), min_width=7) == ["  score        AuPRC", "  max_logit      0.5"]
    assert text_table([]) == []


def test_long_rows_are_neither_cut_nor_wrapped_and_brackets_are_no_markup() -> None:
    path = "encoder.layer." * 40
    assert text_table([(path, "[red]x[/red]", ""), ("a", "b", "c")]) == [
        f"  {path}  [red]x[/red]",
        f"  {'a':{len(path)}}  b             c",
    ]
