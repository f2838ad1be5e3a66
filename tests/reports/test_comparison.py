"""Several runs: ranked where they can be compared, and apart where they cannot."""

import json
import re
from pathlib import Path

import pytest

from eomt.report import main
from eomt.reports.comparison import compare, table_of
from tests.made_up_runs import CONFIG, METRICS, write_run


def names_of(paths: list[Path]) -> list[list[str]]:
    return [[run.folder.name for run in group.runs] for group in compare(paths).groups]


def test_runs_are_ranked_by_their_figure(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, best=best) for name, best in (("a", 0.5), ("b", 0.9), ("c", None))]
    assert names_of(runs) == [["b", "a", "c"]]


def test_where_lower_is_better_the_lowest_is_first(tmp_path: Path) -> None:
    kind = {"metric": "val_eer", "mode": "min"}
    runs = [write_run(tmp_path / name, best=best, **kind) for name, best in (("a", 0.5), ("b", 0.1))]
    assert names_of(runs) == [["b", "a"]]


def changed(old: str, new: str) -> dict[str, str]:
    assert old in CONFIG
    return {"config": CONFIG.replace(old, new)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metric": "val_dice"}, "other metric: val_dice, not val_iou"),
        (changed("data/images", "data/others"), "other data: data.path is data/others, not data/images"),
        (changed("split_seed: 0", "split_seed: 1"), "other split: data.split_seed is 1, not 0"),
        ({"data": {"val": {"images": 5}}}, "other split: the validation images are not the same"),
        (changed("max_steps: 30", "limit_val_batches: 2"), "other data: trainer.limit_val_batches is 2"),
        (changed("SemanticSegmentation", "PromptedSegmentation"), "other data: model is eomt.tasks.Prompted"),
    ],
)
def test_what_cannot_be_compared_stands_apart_with_its_reason(
    tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b"), write_run(tmp_path / "other", best=0.99, **change)]
    first, other = compare(runs).groups
    assert [run.folder.name for run in first.runs] == ["a", "b"]
    assert (first.reason, [run.folder.name for run in other.runs]) == ("", ["other"])
    assert other.reason.startswith(reason)


def test_what_changes_training_alone_can_be_compared_and_has_a_column(tmp_path: Path) -> None:
    other = (
        CONFIG.replace("lr: 0.001", "lr: 0.1").replace("batch_size: 4", "batch_size: 8").replace("rank: 8", "rank: 2")
    )
    data = {"train": {"images": 2}, "val": {"images": 4}}
    compared = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", config=other, data=data)])
    (group,) = compared.groups
    heads, rows = table_of(group, compared.names)
    assert heads[-3:] == ["rank", "learning rate", "batch size"]
    assert {row[0]: row[-3:] for row in rows} == {"a": ["8", "0.001", "4"], "b": ["2", "0.1", "8"]}


def test_a_recorded_split_counts_by_its_names(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b", "c")]
    for run, names in zip(runs, (["1"], ["1"], ["2"]), strict=True):
        (run / "splits.json").write_text(json.dumps({"train": [run.name], "val": names}))
    assert names_of(runs) == [["a", "b"], ["c"]]


def test_a_run_that_has_not_ended_stands_beside_those_that_have(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    (runs[1] / "training_summary.json").unlink()
    (runs[1] / "best_lora_step10_iou0.5000_dice0.3.ckpt").touch()
    compared = compare(runs)
    (group,) = compared.groups
    rows = table_of(group, compared.names)[1]
    assert [row[:3] for row in rows] == [["a", "0.7500", "20"], ["b (not ended)", "0.5000", "10"]]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / place / "run") for place in ("a", "b")]
    assert set(compare(runs).names.values()) == {str(run) for run in runs}


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_skips_what_is_no_run_with_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "notes.txt"), str(write_run(tmp_path / "a")), str(tmp_path / "empty")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert len(re.findall("^skipped: ", out, re.MULTILINE)) == 2
    assert "0.7500" in out


def test_where_nothing_is_a_run_the_status_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert re.fullmatch(r"error: .*none of them is a run.*\n", capsys.readouterr().err)


def test_a_page_of_several_runs_has_a_table_and_a_line_for_each(tmp_path: Path) -> None:
    other = [row | {"val_iou": 0.1 * number} for number, row in enumerate(METRICS)]
    runs = [write_run(tmp_path / "a<b>"), write_run(tmp_path / "b", metrics=other, best=0.3), tmp_path / "none"]
    page = tmp_path / "page.html"
    assert main([*map(str, runs), "--html", str(page)]) == 0
    text = page.read_text()
    assert "a&lt;b&gt; has the best val_iou: 0.7500." in text
    assert "<b>" not in text
    assert text.count('class="line s') == 2 + 2  # and in the legend
    assert "does not exist" in text


def test_a_page_of_several_runs_needs_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write_run(tmp_path / name)) for name in ("a", "b")]
    assert main([*runs, "--html"]) == 2
    assert "--html comparison.html" in capsys.readouterr().err


def test_many_runs_stay_readable(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"run {number:02}", best=0.5 + number / 100) for number in range(20)]
    page = tmp_path / "page.html"
    assert main([*map(str, runs), "--html", str(page)]) == 0
    assert "of the best 16 runs" in page.read_text()
