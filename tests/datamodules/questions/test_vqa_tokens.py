"""Token ids of questions and answers: what is cut off, and what a tokenizer of several languages is told."""

import json
import logging
from pathlib import Path

import pytest
from transformers import MBartTokenizer

from datamodules.questions.tokens import TokenTable
from eomt.utils.tokenizer import DEFAULT_LENGTH
from tests.datamodules.questions.question_files import vqa_csv, write_csv, write_questions
from tests.tiny_vqa import MAX_LENGTH, make_tokenizer

MBART_WORDS = ["\u2581what", "\u2581colour", "\u2581red", "\u2581dark"]


def make_mbart_tokenizer(folder: Path) -> Path:
    """A folder with an mBART tokenizer of a few whole words; its end token is followed by the language."""
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    MBartTokenizer(vocab=special + [(word, -1.0) for word in MBART_WORDS]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("most", "length"), [(None, MAX_LENGTH), (9, 9), (MAX_LENGTH + 9, MAX_LENGTH)])
def test_the_smaller_limit_of_text_model_and_tokenizer_counts(tmp_path: Path, most: int | None, length: int) -> None:
    table = TokenTable(str(make_tokenizer(tmp_path / "tokenizer")), most)
    table.add(["red " * 40, "red"], ["blue " * 40])
    assert (len(table.ids["red " * 40]), len(table.ids["red"])) == (length, 3)
    assert table.ids["red " * 40][-1] == 2
    assert table.truncated == {"red " * 40, "blue " * 40}


def test_a_tokenizer_that_states_no_limit_takes_that_of_the_text_model(tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "tokenizer")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": 10**30}))
    found = []
    for most in (None, MAX_LENGTH):
        table = TokenTable(str(folder), most)
        table.add(["red " * 600])
        found.append(len(table.ids["red " * 600]))
    assert found == [DEFAULT_LENGTH, MAX_LENGTH]


@pytest.mark.parametrize(("language", "code"), [("vi", "vi_VN"), ("en", "en_XX"), (None, "en_XX"), ("fr", "en_XX")])
def test_mbart_reads_questions_in_their_language_and_writes_answers_up_to_their_end(
    tmp_path: Path, language: str | None, code: str
) -> None:
    folder = str(make_mbart_tokenizer(tmp_path / "mbart"))
    names = MBartTokenizer.from_pretrained(folder).convert_ids_to_tokens
    # an answer may be a question too
    table = TokenTable(folder, None, language)
    table.add(["what colour", "dark red"], ["dark red", "red"])
    assert names(table.ids["what colour"]) == ["\u2581what", "\u2581colour", "</s>", code]
    assert names(table.ids["dark red"]) == ["\u2581dark", "\u2581red", "</s>", code]
    assert names(table.labels["dark red"]) == ["\u2581dark", "\u2581red", "</s>"]
    assert names(table.labels["red"]) == ["\u2581red", "</s>"]


def test_the_language_of_the_data_reaches_the_tokenizer(tmp_path: Path) -> None:
    write_questions(tmp_path, range(4))
    write_csv(tmp_path / "train.csv", [[0, "màu gì ?", "red", image, 2] for image in range(4)])
    folder = make_mbart_tokenizer(tmp_path / "mbart")
    tokenizer = MBartTokenizer.from_pretrained(folder)
    data = vqa_csv(tmp_path, language="vi", tokenizer=str(folder), batch_size=2)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert (batch["input_ids"] == tokenizer.convert_tokens_to_ids("vi_VN")).any(1).all()
    assert not (batch["labels"] == tokenizer.convert_tokens_to_ids("vi_VN")).any()
    assert (batch["labels"] == tokenizer.eos_token_id).sum(1).tolist() == [1] * len(batch["name"])


def test_answers_that_are_too_long_to_be_written_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_questions(tmp_path, range(8))
    answers = ["red", "red", "red blue green", "red blue green yes", "red", "red", "red", "red"]
    write_csv(tmp_path / "train.csv", [[0, "what ?", answer, image, 0] for image, answer in enumerate(answers)])
    write_questions(tmp_path, range(20, 22), "val.csv")
    data = vqa_csv(tmp_path, val_csv=str(tmp_path / "val.csv"))
    data.setup("fit")
    found = []
    for most in (5, 4, 3, 1):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="eomt"):
            data.count_long_answers(most)
        found.append((data.counts["train"]["too_long"], len(caplog.messages)))
    # <s> and the words; the end token need not be written
    assert found == [(0, 0), (1, 1), (2, 1), (8, 1)]
