"""Equal answers are one answer: in the vocabulary, in weights and batches as in the metric."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from datamodules.compute_answer_weights import main
from datamodules.questions.vocabulary import count_answers, index_answers
from datamodules.questions.vqa_csv import VQACsv
from eomt.errors import UserError
from eomt.metrics.answer_scores import exact_match, soft_accuracy
from tests.datamodules.questions.question_files import vqa_csv, write_csv, write_questions

# an English speaker writes one answer in these ways
SPELLINGS = ["two", "2", "Two", "two.", "dogs", "the dogs", "Dogs!", "isn't", "isnt"]


def write_answers(folder: Path, answers: list[str]) -> dict[str, Any]:
    """Write a question for each answer, and one of validation; return fields of a data module."""
    write_questions(folder, range(len(answers)))
    write_csv(folder / "train.csv", [[0, "how, mấy ?", answer, image, 0] for image, answer in enumerate(answers)])
    write_questions(folder, [90], "val.csv")
    write_csv(folder / "val.csv", [[0, "how, mấy ?", "red", 90, 0]])
    return {"val_csv": str(folder / "val.csv"), "batch_size": 1}


def indices(data: VQACsv) -> dict[str, int]:
    """Return the index of each training answer in the batches."""
    data.setup("fit")
    batches = list(data.train_dataloader())
    return {batch["answer"][0]: int(batch["answer_index"][0]) for batch in batches}


def test_a_word_and_its_figure_are_one_answer_in_training_as_in_the_metric(tmp_path: Path) -> None:
    data = vqa_csv(tmp_path, **write_answers(tmp_path, SPELLINGS))
    # spelled as most of them are; of equally frequent spellings the first in the alphabet
    assert data.answers == ["two", "dogs", "isn't"]
    assert indices(data) == {"two": 0, "2": 0, "Two": 0, "two.": 0, "dogs": 1, "the dogs": 1, "Dogs!": 1} | {
        "isn't": 2,
        "isnt": 2,
    }
    for answer, index in indices(data).items():
        for other, other_index in indices(data).items():
            assert (exact_match(answer, other, data.answer_language) == 1) == (index == other_index), (answer, other)
    assert soft_accuracy(data.answers[0], ["2"], data.answer_language) == 1


def test_the_count_of_an_answer_is_that_of_all_its_spellings() -> None:
    answers = ["2", "two", "two", "three", "3", "3", "red"]
    assert count_answers(answers, 1, "en") == {"3": 3, "two": 3, "red": 1}
    assert count_answers(answers, 3, "en") == {"3": 3, "two": 3}
    # other languages have no number words here
    assert count_answers(answers, 1, "vi") == {"3": 2, "two": 2, "2": 1, "red": 1, "three": 1}


def test_rows_of_any_spelling_are_trained_on(tmp_path: Path) -> None:
    data = vqa_csv(tmp_path, min_answer_count=2, **write_answers(tmp_path, ["two", "2", "red"]))
    assert [row.answer for row in data.rows("train")] == ["two", "2"]


def test_the_rules_are_those_of_the_language(tmp_path: Path) -> None:
    fields = write_answers(tmp_path, ["an", "an toàn", "An toàn.", "toàn"])
    assert vqa_csv(tmp_path, language="vi", **fields).answers == ["an toàn", "an", "toàn"]
    # "an" is an article of English
    assert vqa_csv(tmp_path, language="en", **fields).answers == ["an toàn", "an"]


def test_answers_weigh_what_all_their_spellings_do_together(tmp_path: Path) -> None:
    fields = write_answers(tmp_path, ["two", "2", "two", "red"])
    file = tmp_path / "answer_weights.json"
    main(["--train_csv", str(tmp_path / "train.csv"), "--method", "inverse", "--output", str(file)])
    entries = json.loads(file.read_text())["answers"]
    assert {answer: entry["count"] for answer, entry in entries.items()} == {"two": 3, "red": 1}
    data = vqa_csv(tmp_path, answer_weights=str(file), **fields)
    data.setup("fit")
    weights = {batch["answer"][0]: float(batch["weight"]) for batch in data.train_dataloader()}
    assert weights["two"] == weights["2"]
    assert weights["red"] == pytest.approx(3 * weights["two"])


def test_the_command_for_weights_names_the_language(tmp_path: Path) -> None:
    fields = write_answers(tmp_path, ["an toàn", "toàn", "toàn"])
    file = tmp_path / "answer_weights.json"
    main(["--train_csv", str(tmp_path / "train.csv"), "--output", str(file)])
    data = vqa_csv(tmp_path, answer_weights=str(file), language="vi", **fields)
    with pytest.raises(UserError, match="another vocabulary") as caught:
        data.setup("fit")
    main(shlex.split(str(caught.value).partition("compute_answer_weights ")[2]))
    data.setup("fit")
    assert data.answers == ["toàn", "an toàn"]


def test_a_vocabulary_of_before_keeps_its_order_and_length(tmp_path: Path) -> None:
    """Runs of version 0.1.0 hold several spellings of an answer; the first of them, the most frequent, is taken."""
    old = ["two", "red", "2", "the red"]
    assert index_answers(old, "en") == {"2": 0, "red": 1}
    data = vqa_csv(tmp_path, answers=old, **write_answers(tmp_path, ["2", "two", "The red"]))
    assert data.answers == old
    assert indices(data) == {"2": 0, "two": 0, "The red": 1}
