"""The language of questions: it must be the one that was given, or types and equal answers are those of another."""

from pathlib import Path
from typing import Any

import pytest

from datamodules.compute_answer_weights import main as compute_answer_weights
from datamodules.questions.types import DEFAULT_TYPES, QuestionTypes, check_language
from eomt.errors import UserError
from tests.datamodules.questions.question_files import vqa_csv, vqa_v2, write_csv, write_questions

VIETNAMESE = [("màu của chiếc bình là gì", "màu xanh lá", "0"), ("có mấy con mèo", "hai", "1")] * 4
FRENCH = [("quelle couleur a le bus ?", "rouge", "0"), ("combien de chats ?", "deux", "1")] * 4


@pytest.mark.parametrize(
    ("rows", "given", "likely"), [(None, "vi", "en"), (VIETNAMESE, "en", "vi"), (FRENCH, "en", "other")]
)
def test_questions_in_another_language_than_the_given_are_refused(
    tmp_path: Path, rows: Any, given: str, likely: str
) -> None:
    """15.9: English rows under the default config's `language: vi` were read by Vietnamese rules."""
    file = write_questions(tmp_path, range(8))
    if rows is not None:
        write_csv(file, rows, ("question", "answer", "image"))
    with pytest.raises(UserError, match=rf"^language: {given}, but 0 of .* set language: {likely}$"):
        vqa_csv(tmp_path, language=given).rows("train")
    with pytest.raises(UserError, match=rf"^language: {given}, but 0 of 8|16 .*train.csv .* set language: {likely}$"):
        compute_answer_weights(
            ["--train_csv", str(file), "--language", given, "--output", str(tmp_path / "weights.json")]
        )
    assert not (tmp_path / "weights.json").exists()
    assert vqa_csv(tmp_path, language=likely).rows("train")


def test_a_question_in_a_language_without_rules_is_of_the_type_of_those_without_a_match(tmp_path: Path) -> None:
    write_questions(tmp_path, range(2))
    write_csv(tmp_path / "train.csv", FRENCH, ("question", "answer", "image"))
    assert {row.question_type for row in vqa_csv(tmp_path, language="other").rows("train")} == {"object"}


def test_json_files_in_another_language_are_refused(tmp_path: Path) -> None:
    """15.9: the same of VQAv2's format."""
    with pytest.raises(UserError, match="language: vi, but 0 of 12 questions of the train split"):
        vqa_v2(tmp_path, language="vi").rows("train")


def test_a_language_is_not_refused_for_a_few_questions_in_another() -> None:
    english, vietnamese = ["What is this?"] * 7, ["đây là gì"] * 3
    check_language(english + vietnamese, "en", "here")
    check_language(english + vietnamese, "vi", "here")
    with pytest.raises(UserError, match="3 of 11"):
        check_language([*english, "Who?", *vietnamese], "vi", "here")


def test_words_that_another_language_spells_alike_are_no_sign_of_english() -> None:
    """15.9: "was" passed German for English, of whose questions "Was ist das?" then was one for yes or no."""
    german = ["Was ist auf dem Bild?", "Was ist das?", "Wie viele Hunde sind da?", "Welche Farbe hat der Bus?"] * 3
    dutch = ["Wat is dit?", "Is dit een kat?", "Hoeveel honden zijn er?", "Was het een bus?"] * 3
    spanish = ["¿Qué has visto?", "¿De qué color es el coche?", "¿Cuántos perros hay?", "¿Dónde está?"] * 3
    for questions in (german, dutch, spanish):
        with pytest.raises(UserError, match=r"set language: other$"):
            check_language(questions, "en", "here")
    check_language(["Is he smiling?", "Is the bus red?", "Was there a dog?", "red car or bus?"], "en", "here")
    check_language(["is red above blue", "is a circle red", "color of car", "number of dogs"], "en", "here")


@pytest.mark.parametrize("field", ["val_csv", "test_csv", "predict_csv"])
def test_every_file_is_in_the_given_language(tmp_path: Path, field: str) -> None:
    """15.9: training questions alone were looked at."""
    write_questions(tmp_path, range(8))
    file = write_questions(tmp_path / "other", range(10, 12))
    write_csv(
        file, [(text, answer, int(image) + 10) for text, answer, image in VIETNAMESE], ("question", "answer", "image")
    )
    data = vqa_csv(tmp_path, **{field: str(file)})
    with pytest.raises(UserError, match=r"^language: en, but 0 of .*set language: vi$"):
        _ = data.rows("val") if field != "predict_csv" else data.predict_dataloader()


def test_one_question_is_too_few_to_tell_a_language(tmp_path: Path) -> None:
    write_questions(tmp_path, range(8))
    asked = {"predict_path": str(tmp_path), "answers": ["red"]}
    assert vqa_csv(tmp_path, predict_question="Is Ann smiling?", **asked).predict_dataloader()
    with pytest.raises(UserError, match=r"^language: en, but 0 of 1 .*set language: vi$"):
        vqa_csv(tmp_path, predict_question="đây là gì", **asked).predict_dataloader()


@pytest.mark.parametrize(
    ("question", "language", "found"),
    [
        ("Is the bus red?", "en", "yes/no"),
        ("Aren't there two cats?", "en", "yes/no"),
        ("does the image contain the color red", "en", "yes/no"),
        ("Is the bus red or blue?", "en", "object"),
        ("What color is it?", "en", "colour"),
        ("How many are there?", "en", "count"),
        ("có phải chiếc xe màu đỏ?", "vi", "yes/no"),
        ("con mèo có ở trong nhà không ?", "vi", "yes/no"),
        ("con vật nào không có đuôi", "vi", "object"),
        ("chiếc xe màu gì", "vi", "colour"),
    ],
)
def test_yes_or_no_is_a_type(question: str, language: Any, found: str) -> None:
    """15.9: a question for yes or no was one for an object, a color or a number."""
    assert QuestionTypes(DEFAULT_TYPES, language).guessed(question) == found


def test_saved_runs_without_the_type_guess_as_before() -> None:
    types = QuestionTypes(["object", "count", "colour", "location"], "en")
    assert types.guessed("Is the color red?") == "colour"
    assert types.guessed("Is this a bus?") == "object"


def test_weights_of_types_that_do_not_occur_are_refused(tmp_path: Path) -> None:
    """15.9: such weights did nothing."""
    write_questions(tmp_path, range(8), questions=1)
    with pytest.raises(UserError, match=r"^type_weights: no training question is of type count, location; "):
        vqa_csv(tmp_path, type_weights={"count": 2.0, "location": 1.4}).setup("fit")
    vqa_csv(tmp_path, type_weights={"count": 2.0, "colour": 1.3}).setup("fit")
