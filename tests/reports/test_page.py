"""The page of a run, from made-up folders: what stands there, what is missing, and that nothing is markup."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eomt.errors import UserError
from eomt.report import main
from eomt.reports.figures import parts
from eomt.reports.page import render_page, write_page
from eomt.reports.run_files import read_run
from tests.documents import ROOT
from tests.made_up_runs import METRICS, STAMP, SUMMARY, write_run, write_table, write_test

EVIL = "<script>alert(1)</script>\"'&\x1b[2J"


class Tags(HTMLParser):
    """The tags and attributes of a page, and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def ids(self) -> set[str]:
        return {value for name, value in self.attributes if name == "id"}


def page_of(folder: Path) -> str:
    return write_page(folder).read_text(encoding="utf-8")


def test_a_tested_run_has_every_section_and_the_verdict_first(tmp_path: Path) -> None:
    write_test(write_run(tmp_path / "run"))
    text = page_of(tmp_path / "run")
    page = Tags(text)
    assert not page.open
    assert {"curves", "parts", "confusion", "examples", "adapters", "configuration", "origins", "log"} <= page.ids()
    assert "missing" not in page.ids()
    assert text.index("0.2500 at step 0, 0.7500 at step 20") < text.index('id="curves"')
    for shown in ("all 4 adapters act and learn", "main.py fit --config a.yaml", "CPU, 1 threads", "rank", "0.7000"):
        assert shown in text
    assert text.count("<img") == 2
    assert text.count("data:image/jpeg;base64,") == 2


def test_links_of_the_contents_lead_to_sections(tmp_path: Path) -> None:
    write_test(write_run(tmp_path / "run"))
    page = Tags(page_of(tmp_path / "run"))
    targets = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert targets
    assert targets <= page.ids()


def test_a_page_names_nothing_that_a_browser_would_fetch_or_run(tmp_path: Path) -> None:
    write_test(write_run(tmp_path / "run"))
    text = page_of(tmp_path / "run")
    page = Tags(text)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        # the policy would refuse it
        assert name != "style"
        if name in ("src", "href", "srcset", "data"):
            assert value.startswith(("#", "data:")), value
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import", text)


def test_names_that_are_markup_or_no_text_are_shown_as_they_are(tmp_path: Path) -> None:
    # a name of bytes that no encoding knows
    folder = tmp_path / f"{EVIL.replace('/', '_')}\udce9"
    columns = [{name.replace("road", EVIL): value for name, value in row.items()} for row in METRICS]
    texts: dict[str, Any] = dict.fromkeys(("task", "audit", "stopped_early", "command", "machine"), EVIL)
    nested = {"notes": [EVIL], "base": {"id": EVIL}, "versions": {EVIL: EVIL}, "data": {EVIL: {EVIL: 1}}}
    write_run(folder, f"model: {json.dumps(EVIL)}\n", columns, **texts, **nested)
    results = write_test(folder, [EVIL, "sky"], **{EVIL: 0.5})
    examples = Path(f"{results}_examples") / "examples.json"
    found = json.loads(examples.read_text())
    found["worst"][0] |= {"name": EVIL, "lines": [EVIL]}
    found |= {"caption": EVIL, "picture": EVIL, "legend": [{"name": EVIL, "color": "#000000"}]}
    examples.write_text(json.dumps(found))
    text = page_of(folder)
    page = Tags(text)
    assert "script" not in page.tags
    assert not page.open
    assert "missing" not in page.ids()
    assert any("<script>alert(1)</script>" in value for name, value in page.attributes if name == "alt")
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;") > 20


@pytest.mark.parametrize("name", ["training_summary.json", "metrics.csv", "config.yaml", "training.log", "results"])
def test_a_run_without_one_of_its_files_has_a_page_that_says_so(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    write_test(folder)
    shutil.rmtree(folder / name) if name == "results" else (folder / name).unlink()
    text = page_of(folder)
    assert 'id="missing"' in text
    assert Tags(text).tags.count("li") > 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b'{"step": "x"}', b"step,a\nx,1\n", b"step\n1,2,3\n"]
)
@pytest.mark.parametrize(
    "name",
    [
        *("training_summary.json", "metrics.csv", "config.yaml", "training.log", f"results/{STAMP}_eval.json"),
        *(f"results/{STAMP}_confusion.csv", f"results/{STAMP}_examples/examples.json"),
        f"results/{STAMP}_examples/best_0.jpg",
    ],
)
def test_a_damaged_file_costs_no_more_than_its_section(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_run(tmp_path / "run")
    write_test(folder)
    (folder / name).write_bytes(content)
    page = Tags(page_of(folder))
    assert not page.open
    assert "configuration" in page.ids() or name == "config.yaml"


def test_a_run_killed_at_its_third_step_shows_what_it_had(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", metrics=[{"step": 0, "val_iou": 0.25, "train_loss": ""}])
    (folder / "training_summary.json").unlink()
    assert "there is no best step yet" in page_of(folder)
    (folder / "best_lora_step0_iou0.2500_dice0.3.ckpt").touch()
    text = page_of(folder)
    assert "Training has not ended. val_iou: 0.2500 at step 0, the best until step 0." in text
    assert "Training has not ended: there is no summary." in text


@pytest.mark.parametrize("kind", ["eomt", "morph", "sam2", "vqa"])
def test_runs_of_the_first_version_have_a_page(tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(ROOT / "tests" / "old_runs" / kind, tmp_path / kind)
    text = page_of(folder)
    assert "step 0 was not measured" in text
    assert "There are no curves" in text
    assert "It has not been tested" in text


def test_figures_that_are_no_numbers_leave_gaps(tmp_path: Path) -> None:
    rows = [{"step": 0, "val_iou": "nan", "val_loss": "inf"}, {"step": 10, "val_iou": 0.5, "val_loss": 1e308}]
    folder = write_run(tmp_path / "run", metrics=rows, baseline=None, best=None, best_step=None)
    text = page_of(folder)
    assert "Nothing was validated" in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_a_hundred_classes_get_rows_and_only_the_largest_confusions(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(100)]
    folder = write_run(tmp_path / "run")
    write_test(folder, names)
    text = page_of(folder)
    assert "The largest confusions of many classes" in text
    assert text.count('class="bar"') == 102
    assert len(text) < 200_000


def test_pictures_are_bounded_and_those_outside_of_the_run_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eomt.reports.pictures.BUDGET", 100_000)
    folder = write_run(tmp_path / "run")
    write_test(folder)
    (folder / "pictures").mkdir()
    for name in ("test", "train_batch"):
        Image.effect_noise((300, 600), 200).save(folder / "pictures" / f"{name}.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    (folder / "pictures" / "val_step000010.png").symlink_to(tmp_path / "mine.png")
    text = page_of(folder)
    assert sum(len(address) for address in re.findall(r'src="([^"]*)"', text)) <= 100_000
    assert "is left out: the page is large enough." in text
    assert "val_step000010.png: lies outside of the run and is not shown" in text


def test_a_wide_picture_is_shrunk(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "pictures").mkdir()
    Image.new("RGB", (4000, 100)).save(folder / "pictures" / "test.png")
    assert 'width="1400" height="35"' in page_of(folder)


def test_an_example_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    examples = Path(f"{write_test(folder)}_examples") / "examples.json"
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    found = json.loads(examples.read_text())
    found["best"][0]["file"] = "../../../mine.png"
    examples.write_text(json.dumps(found))
    assert page_of(folder).count("<img") == 1


def test_what_a_run_does_not_beat_stands_in_its_first_line(tmp_path: Path) -> None:
    rows = [
        {"step": step, "val_accuracy": value, "val_majority_accuracy": 0.4, "val_blank_accuracy": 0.8}
        for step, value in ((0, 0.3), (20, 0.75))
    ]
    write_run(tmp_path / "run", metrics=rows, metric="val_accuracy", baseline=0.3)
    text = page_of(tmp_path / "run")
    assert "It does not beat the network on gray images (0.8000). It beats the most frequent answer (0.4000)." in text


def test_classes_of_instance_segmentation_have_bars_and_the_threshold_is_a_rival(tmp_path: Path) -> None:
    """AP of all classes is called map, that of a class ap."""
    rows = [{"step": step, "val_map": value, "val_ap/cell": value} for step, value in ((0, 0.1), (20, 0.4))]
    folder = write_run(tmp_path / "run", metrics=rows, metric="val_map", baseline=0.1)
    figures = {"test_map": 0.35, "test_ap/cell": 0.35, "test_map_threshold": 0.2}
    tested = {"task": "InstanceSegmentation", "weights": "a/best.ckpt", "metrics": figures}
    Path(f"{write_test(folder, ('cell',))}_eval.json").write_text(json.dumps(tested))
    found = parts(read_run(folder))
    assert found is not None
    assert [(row.name, row.cells[-1], row.bar) for row in found.rows] == [("cell", "0.3500", 35.0)]
    assert "In the test it beats components of a brightness threshold, not asked for classes (0.2000)." in page_of(
        folder
    )
    # without training too
    for name in ("training_summary.json", "metrics.csv"):
        (folder / name).unlink()
    found = parts(read_run(folder))
    assert found is not None
    assert (found.metric, found.rows[0].name) == ("val_map", "cell")


def test_a_rival_that_a_note_names_is_drawn_and_compared(tmp_path: Path) -> None:
    rows = [{"step": step, "val_iou": value, "val_box_filled_iou": 0.9} for step, value in ((0, 0.25), (20, 0.75))]
    note = "The prompt alone has val_box_filled_iou 0.9000: the box, filled."
    write_run(tmp_path / "run", metrics=rows, notes=[note])
    text = page_of(tmp_path / "run")
    assert "It does not beat the prompt alone (0.9000)." in text
    assert "val_box_filled_iou goes from 0.9 at step 0" in text


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    write_test(write_run(tmp_path / "run"))
    assert render_page(read_run(tmp_path / "run")) == render_page(read_run(tmp_path / "run"))


def test_the_newest_test_of_trained_weights_is_shown_whatever_lies_beside_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    write_test(folder)
    for name, weights, iou in ((f"{STAMP}_again", "b.ckpt", 0.6125), ("20260202-000000", None, 0.1125)):
        content = {"weights": weights, "metrics": {"test_iou": iou}}
        (folder / "results" / f"{name}_eval.json").write_text(json.dumps(content))
    text = page_of(folder)
    assert "0.6125" in text
    assert "0.1125" not in text


def test_settings_of_an_alias_that_stands_for_a_million_take_no_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    write_run(tmp_path / "run", "\n".join([*lines, "data: {class_path: x, init_args: *a11}"]))
    assert "config.yaml" in page_of(tmp_path / "run")


# -- the command --------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_prints_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    assert main([str(folder), "--html"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert main([str(folder), "--html", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_bytes() == (folder / "report.html").read_bytes()


@pytest.mark.parametrize("kind", ["file", "empty folder", "nothing", "a folder for a page", "a page in a file"])
def test_what_is_no_run_or_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    run, html = tmp_path / "x", ["--html"]
    if kind == "file":
        run.write_text("{}")
    elif kind == "empty folder":
        run.mkdir()
    elif kind == "a folder for a page":
        write_run(run)
        (run / "report.html").mkdir()
    elif kind == "a page in a file":
        write_run(run)
        html = ["--html", str(run / "config.yaml" / "page.html")]
    assert main([str(run), *html]) == 2
    assert re.fullmatch(r"error: .*\n", capsys.readouterr().err)


def test_without_a_page_a_run_that_has_not_ended_is_still_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "training_summary.json").unlink()
    assert main([str(folder)]) == 2
    assert main([str(folder), "--html"]) == 0


def test_a_folder_in_the_place_of_the_page_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    assert main(["--html", str(folder)]) == 2
    assert "is a folder; write RUN --html" in capsys.readouterr().err


def test_no_run_is_read_from_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "none")


def test_numbers_of_a_summary_may_not_be_anything(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    text = json.dumps(SUMMARY).replace("0.75", "NaN")
    (folder / "training_summary.json").write_text(text)
    assert "training_summary.json cannot be used" in page_of(folder)


def test_a_table_of_another_length_of_rows_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    results = write_test(folder)
    write_table(Path(f"{results}_answers.csv"), [{"type": "a", "answer": "b"}])
    assert "is no table of a test" in page_of(folder)


def test_nothing_but_a_page_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run")
    page = tmp_path / "page.html"
    assert main([str(folder), "--html", str(page)]) == 0
    assert main([str(folder), "--html", str(page)]) == 0
    page.write_text("mine")
    before = (folder / "config.yaml").read_bytes()
    for other in (page, folder / "config.yaml", tmp_path / "new.txt"):
        assert main([str(folder), "--html", str(other)]) == 2
        assert "give a new name in .html" in capsys.readouterr().err
    assert page.read_text() == "mine"
    assert (folder / "config.yaml").read_bytes() == before
