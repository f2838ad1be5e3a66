"""Answers as files and pictures, and the baselines beside them, through a trainer with a tiny network."""

import csv
import json
import logging
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from callbacks.pictures.answers import AnswerSample, answer_sheet, chosen, samples_of
from callbacks.results import answers as answer_results
from callbacks.results.answer_comparison import Comparison, baseline_accuracies
from callbacks.results.answers import AnswerResults
from callbacks.results.prediction_files import PredictionFiles
from callbacks.results.report_on_test import ReportOnTest
from callbacks.run.run_summary import RunSummary
from datamodules.questions.rows import QuestionRow
from datamodules.questions.vqa_csv import VQACsv
from eomt.errors import UserError
from eomt.tasks.visual_question_answering import VisualQuestionAnswering
from tests.tiny_vqa import SIDE, TYPES, enlarge_weights, make_tokenizer, make_vqa

COLORS = {"đỏ": (220, 40, 40), "xanh": (40, 60, 220)}
NUM_IMAGES = 8


def write_questions(folder: Path) -> VQACsv:
    """Two questions of each type about each of eight images: what colour it has, and always "tròn"."""
    make_tokenizer(folder / "tokenizer")
    rows = []
    for number in range(NUM_IMAGES):
        color = list(COLORS)[number % 2]
        Image.new("RGB", (SIDE, SIDE), COLORS[color]).save(folder / f"{number}.png")
        rows += [(f"{number}.png", "Màu của hình là gì?", color, "colour")]
        rows += [(f"{number}.png", "Hình dạng, là gì?", "tròn", "shape")]
    for name in ("train", "val"):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "question", "answer", "type"), *rows])
    for number in range(NUM_IMAGES):
        # not the pixels of training, which a data module refuses
        Image.new("RGB", (SIDE, SIDE), (30 * number, 255 - 30 * number, 60)).save(folder / f"other{number}.png")
    text = (folder / "val.csv").read_text(encoding="utf-8")
    for number in range(NUM_IMAGES):
        text = text.replace(f"\n{number}.png", f"\nother{number}.png")
    (folder / "val.csv").write_text(text, encoding="utf-8")
    return VQACsv(
        str(folder / "train.csv"), str(folder / "val.csv"), str(folder / "val.csv"), language="vi",
        question_types=TYPES, batch_size=4, eval_batch_size=3, img_size=SIDE,
        tokenizer=str(folder / "tokenizer"),
    )  # fmt: skip


def make_task(data: VQACsv) -> VisualQuestionAnswering:
    torch.manual_seed(0)
    network = make_vqa(answer_head="classification", answers=data.answers, tokenizer=data.tokenizer)
    return VisualQuestionAnswering(network, language="vi", lr=1e-3)


def make_trainer(folder: Path, callbacks: list[Any]) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder / "run", accelerator="cpu", max_steps=2, val_check_interval=2, num_sanity_val_steps=-1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, callbacks=callbacks,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a network was fitted, tested and asked; `log` holds what was said, `metrics` was measured."""
    folder = tmp_path_factory.mktemp("answers")
    data = write_questions(folder)
    task, callback = make_task(data), AnswerResults(num_samples=4)
    enlarge_weights(task.network)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("eomt").addHandler(handler)
    level = logging.getLogger("eomt").level
    logging.getLogger("eomt").setLevel(logging.INFO)
    metrics = {}
    trainer = make_trainer(folder, [callback])
    trainer.fit(task, datamodule=data)
    metrics |= trainer.callback_metrics
    trainer = make_trainer(folder, [RunSummary(), AnswerResults(4), ReportOnTest()])
    trainer.test(task, datamodule=data, verbose=False)
    metrics |= trainer.callback_metrics
    make_trainer(folder, [AnswerResults(), PredictionFiles()]).predict(task, datamodule=data)
    logging.getLogger("eomt").removeHandler(handler)
    logging.getLogger("eomt").setLevel(level)
    (folder / "log").write_text("\n".join(lines), encoding="utf-8")
    (folder / "metrics").write_text(json.dumps({name: float(value) for name, value in metrics.items()}))
    return folder


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_baselines_are_logged_beside_the_model(folder: Path) -> None:
    metrics = json.loads((folder / "metrics").read_text())

    for split in ("val", "test"):
        # every shape is "tròn"; half of the colours are "đỏ"
        assert metrics[f"{split}_majority_accuracy"] == 0.5
        assert metrics[f"{split}_question_only_accuracy"] == 0.75
        assert {f"{split}_accuracy", f"{split}_blank_accuracy"} <= metrics.keys()


def test_a_page_shows_answers_with_their_questions_and_a_matrix_of_each_type(folder: Path) -> None:
    examples = json.loads((only(folder / "run" / "results", "*_examples") / "examples.json").read_text())
    rows = {row["name"]: row for row in read_table(only(folder / "run" / "results", "*_answers.csv"))}
    assert [example["figure"] for example in examples["best"]] == [1.0] * 6
    assert [example["figure"] for example in examples["worst"]] == [0.0] * 6
    for example in [*examples["best"], *examples["worst"]]:
        row = rows[example["name"]]
        said = f"answer: {row['predicted']}, accuracy {float(row['accuracy']):.2f}"
        assert example["lines"] == [row["question"], f"truth: {row['answer']}", said]
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    for title in ("colour", "shape"):
        assert f"<h3>{title}</h3>" in page


def test_test_measures_the_baselines_of_each_type(folder: Path) -> None:
    metrics = json.loads((folder / "metrics").read_text())
    rows = read_table(only(folder / "run" / "results", "*_answers.csv"))
    results = json.loads(only(folder / "run" / "results", "*_eval.json").read_text())["metrics"]

    for kind, majority, question_only in (("colour", 0.0, 0.5), ("shape", 1.0, 1.0)):
        assert results[f"test_majority_accuracy/{kind}"] == majority
        assert results[f"test_question_only_accuracy/{kind}"] == question_only
        blank = [row["blank"] == row["answer"] for row in rows if row["type"] == kind]
        assert results[f"test_blank_accuracy/{kind}"] == pytest.approx(np.mean(blank))
    assert not [name for name in metrics if name.startswith("val_majority_accuracy/")]


def test_answers_are_written_where_training_knows_none_of_the_vocabulary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_questions(tmp_path)
    task = make_task(data)
    data._answers = ["lam"]
    with caplog.at_level(logging.INFO, logger="eomt"):
        make_trainer(tmp_path, [RunSummary(), AnswerResults(4)]).test(task, datamodule=data, verbose=False)

    assert len(read_table(only(tmp_path / "run" / "results", "*_answers.csv"))) == 2 * NUM_IMAGES
    assert caplog.text.count("there are no baselines beside the model") == 1
    (line,) = [line for line in caplog.messages if line.startswith("Accuracy (test)")]
    assert "same model on a blank image" in line
    assert "question only" not in line


def test_the_end_sets_model_and_baselines_beside_one_another(folder: Path) -> None:
    lines = (folder / "log").read_text(encoding="utf-8").splitlines()
    compared = [line for line in lines if line.startswith("Accuracy (")]

    named = [line.partition(")")[0] for line in compared]
    assert [name.partition(",")[0] for name in named[:2]] == ["Accuracy (val", "Accuracy (test"]
    assert named[2:] == ["Accuracy (test, colour", "Accuracy (test, shape"]
    assert "question only 0.5000, majority answer 0.0000" in compared[2]
    assert "question only 1.0000, majority answer 1.0000" in compared[3]
    for line in compared[:2]:
        assert "question only 0.7500, majority answer 0.5000" in line
        # two steps with random weights
        assert "does NOT beat the question-only baseline" in lines[lines.index(line) + 1]


@pytest.mark.parametrize(
    ("model", "blank", "words"),
    [(0.7, 0.4, "does NOT beat"), (0.6, 0.4, "does NOT beat"), (0.8, 0.8, "does not look"), (0.8, 0.7, "")],
)
def test_a_model_that_does_not_look_is_named(model: float, blank: float, words: str) -> None:
    figures = {"accuracy": model, "blank_accuracy": blank}
    comparison = Comparison(3, {**figures, "question_only_accuracy": 0.7, "majority_accuracy": 0.5})

    assert words in comparison.verdict
    assert bool(words) == bool(comparison.verdict)


def test_the_best_validation_is_compared_and_survives_a_resume() -> None:
    callback = AnswerResults()
    for step, accuracy in ((0, 0.2), (5, 0.6), (10, 0.4)):
        names = {"val_accuracy": accuracy, "val_blank_accuracy": step / 100}
        metrics = {**names, "val_question_only_accuracy": 0.3, "val_majority_accuracy": 0.1}
        trainer: Any = SimpleNamespace(
            global_step=step, callback_metrics=metrics, state=SimpleNamespace(fn="fit"), is_global_zero=True
        )
        callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
    resumed = AnswerResults()
    resumed.load_state_dict(callback.state_dict())

    assert resumed._best is not None
    assert (resumed._best.step, resumed._best.figures["accuracy"], resumed._best.figures["blank_accuracy"]) == (
        5,
        0.6,
        0.05,
    )
    resumed.load_state_dict(AnswerResults().state_dict())
    assert resumed._best is None


def test_test_writes_every_answer_once(folder: Path) -> None:
    rows = read_table(only(folder / "run" / "results", "*_answers.csv"))
    asked = read_table(folder / "val.csv")

    columns = ["name", "image", "question", "type", "answer", "predicted", "blank", "accuracy", "blank_accuracy"]
    assert list(rows[0]) == columns
    assert Counter((Path(row["image"]).name, row["question"], row["answer"], row["type"]) for row in rows) == Counter(
        tuple(row.values()) for row in asked
    )
    assert len({row["name"] for row in rows}) == 2 * NUM_IMAGES
    for row in rows:
        assert float(row["accuracy"]) == (row["predicted"] == row["answer"])
        assert float(row["blank_accuracy"]) == (row["blank"] == row["answer"])
        assert all(unicodedata.is_normalized("NFC", value) for value in row.values())
    metrics = json.loads((folder / "metrics").read_text())
    assert metrics["test_accuracy"] == pytest.approx(np.mean([float(row["accuracy"]) for row in rows]))
    assert any(row["predicted"] != row["blank"] for row in rows)
    blank = np.mean([row["blank"] == row["answer"] for row in rows])
    assert metrics["test_blank_accuracy"] == pytest.approx(blank)


def test_the_official_format_holds_the_same_answers(folder: Path) -> None:
    for table, document, column in (
        (only(folder / "run" / "results", "*_answers.csv"), "results/*_vqav2.json", "predicted"),
        (folder / "run" / "predictions" / "predictions.csv", "predictions/vqav2.json", "answer"),
    ):
        rows = read_table(table)
        text = only(folder / "run", document).read_text(encoding="utf-8")
        assert json.loads(text) == [{"question_id": row["name"], "answer": row[column]} for row in rows]
        assert "\\u" not in text
    assert list(rows[0]) == ["name", "file", "question", "answer"]


@pytest.mark.parametrize(
    ("name", "identity"), [("262148000", 262148000), ("val.csv:12", "val.csv:12"), ("007", "007"), ("٣", "٣")]
)
def test_numbers_are_numbers_for_the_official_evaluation(name: str, identity: int | str) -> None:
    assert answer_results._question_id(name) == identity


def test_what_an_interrupted_test_left_is_dropped() -> None:
    callback = AnswerResults()
    callback._rows, callback._shown = [{"name": "old"}], make_samples({"colour": 1})
    callback.on_test_epoch_start(None, None)  # type: ignore[arg-type]

    assert callback._rows == callback._shown == []


def test_padding_is_in_no_file_and_no_picture() -> None:
    batch = make_batch(4)
    batch["name"][2] = ""

    rows = answer_results._rows_of(batch, ["a", "b", "c", "d"])
    assert [(place, row["predicted"], row["image"]) for place, row in rows] == [
        (0, "a", "i0"),
        (1, "b", "i1"),
        (3, "d", "i1"),
    ]
    assert [sample.predicted for sample in samples_of(batch, ["a", "b", "c", "d"], "vi")] == ["a", "b", "d"]


def test_baselines_count_equal_answers_as_equal() -> None:
    rows = [
        QuestionRow("q", answer, (answer,), "", Path("i"), str(i))
        for i, answer in enumerate(["Two", "two.", "2", "3", "3"])
    ]

    # three of five say 2; ten references are compared softly
    measured = [QuestionRow("q", "2", ("two",) * 2 + ("5",) * 8, "", Path("i"), "0")]
    assert baseline_accuracies(rows, measured, "en") == {
        "majority_accuracy": pytest.approx(0.6),
        "question_only_accuracy": pytest.approx(0.6),
    }


# pictures


def make_batch(number: int) -> dict[str, Any]:
    """Questions about two images."""
    return {
        "name": [f"q{index}" for index in range(number)],
        "image": torch.stack([torch.full((3, 8, 8), 10 * index, dtype=torch.uint8) for index in range(2)]),
        "image_name": ["i0", "i1"],
        "image_index": torch.tensor([index % 2 for index in range(number)]),
        "question": [f"Hỏi {index}?" for index in range(number)],
        "question_type": ["colour"] * number,
        "answer": ["đỏ"] * number,
        "answers": [["đỏ"]] * number,
    }


def make_samples(types: dict[str, int]) -> list[AnswerSample]:
    return [
        AnswerSample(f"{kind}{index}", torch.zeros(3, 4, 4, dtype=torch.uint8), "?", kind, "x", "x", 1.0)
        for kind, number in types.items()
        for index in range(number)
    ]


def test_pictures_are_written_where_they_belong(folder: Path) -> None:
    names = {path.name for path in (folder / "run" / "pictures").iterdir()}

    assert names == {"train_batch.png", "val_step000000.png", "val_step000002.png", "test.png"}


def test_samples_belong_to_their_images() -> None:
    samples = samples_of(make_batch(4), ["đỏ", "xanh", "Đỏ", ""], "vi")

    assert [int(sample.image.max()) for sample in samples] == [0, 10, 0, 10]
    assert [sample.accuracy for sample in samples] == [1, 0, 1, 0]


def test_questions_are_spread_over_types() -> None:
    samples = make_samples({"colour": 50, "count": 9, "location": 1})

    assert Counter(sample.question_type for sample in chosen([], samples, 7)) == {
        "colour": 3,
        "count": 3,
        "location": 1,
    }


@pytest.mark.parametrize("number", [1, 5, 8, 100])
def test_the_same_questions_are_chosen_in_any_order_batch_and_process(number: int) -> None:
    samples = make_samples({"colour": 20, "count": 7, "shape": 3})
    at_once = {sample.name for sample in chosen([], samples, number)}
    for seed in range(5):
        order = [samples[index] for index in np.random.default_rng(seed).permutation(len(samples))]
        of_processes = []
        for share in (order[:11], order[11:]):
            kept: list[AnswerSample] = []
            for start in range(0, len(share), 4):
                kept = chosen(kept, share[start : start + 4], number)
            of_processes += kept
        assert {sample.name for sample in chosen(of_processes, [], number)} == at_once


def test_kept_images_do_not_keep_their_batch() -> None:
    batch = make_batch(4)
    kept = chosen([], samples_of(batch, None, "vi"), 2)

    assert all(sample.image.untyped_storage().nbytes() == 3 * 8 * 8 for sample in kept)


def test_right_answers_are_green_and_wrong_ones_red() -> None:
    def reddish_and_greenish(accuracy: float) -> tuple[int, int]:
        sample = AnswerSample("n", torch.zeros(3, 4, 4, dtype=torch.uint8), "Hỏi?", "", "đỏ", "đỏ", accuracy)
        pixels = np.asarray(answer_sheet([sample])).astype(int)
        difference = pixels[..., 0] - pixels[..., 1]
        return int((difference > 60).sum()), int((difference < -60).sum())

    red, green = reddish_and_greenish(1.0)
    assert (red, green > 0) == (0, True)
    red, green = reddish_and_greenish(0.3)
    assert (red > 0, green) == (True, 0)


# mistakes


def test_another_task_and_no_samples_are_refused() -> None:
    with pytest.raises(UserError, match="num_samples: 0; must be at least 1"):
        AnswerResults(num_samples=0)
    with pytest.raises(UserError, match="AnswerResults is for VisualQuestionAnswering, not BoringModel"):
        AnswerResults().setup(SimpleNamespace(), BoringModel(), "fit")  # type: ignore[arg-type]


def test_a_run_summary_must_stand_before_it(folder: Path) -> None:
    data = write_questions(folder)
    with pytest.raises(UserError, match="AnswerResults needs a RunSummary before it"):
        make_trainer(folder / "alone", [AnswerResults()]).test(make_task(data), datamodule=data, verbose=False)


def test_a_callback_that_serves_two_runs_measures_the_baselines_of_each(tmp_path: Path) -> None:
    """15.11: the second run was set beside the baselines of the first one's data."""
    callback, found = AnswerResults(), []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        data = write_questions(tmp_path / name)
        if name == "second":
            file = tmp_path / name / "val.csv"
            file.write_text(file.read_text(encoding="utf-8").replace(",tròn,", ",đỏ,"), encoding="utf-8")
        trainer = make_trainer(tmp_path / name, [callback])
        trainer.validate(make_task(data), datamodule=data, verbose=False)
        found.append(float(trainer.callback_metrics["val_majority_accuracy"]))
    # the most frequent answer of training is that to every second question, and then to none of them
    assert found == [0.5, 0.0]
