"""Answers against references: the worked cases of VQAv2, brute force, and no harm to Vietnamese."""

import itertools
import unicodedata

import numpy as np
import pytest

from eomt.metrics.answer_scores import (
    accuracy_of_matches,
    answer_tokens,
    best_accuracy,
    exact_match,
    soft_accuracy,
    token_f1,
)
from eomt.utils.answers import CONTRACTIONS, normalize_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The red, shiny  Ball!", "red shiny ball"),
        ("two", "2"),
        ("None", "0"),
        ("an apple and a pear", "apple and pear"),
        ("dont", "don't"),
        ("shouldn'tve", "shouldn't've"),
        ("whats", "what's"),
        ("its", "its"),
        ("well", "well"),
        ("yes/no", "yes no"),
        ("yes / no", "yes no"),
        ("t-shirt", "t shirt"),
        ("1,000 men/women", "1000 menwomen"),
        ("2.5", "2.5"),
        ("U.S.", "us"),
        ("tomato\n soup.", "tomato soup"),
        ("$5", "$5"),
        ("A", "a"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_english_follows_the_rules_of_vqav2(text: str, normal: str) -> None:
    assert normalize_answer(text, "en") == normal


def test_contractions_are_told_from_words_that_look_like_them() -> None:
    assert not CONTRACTIONS.keys() & {"its", "were", "well", "wed", "shed", "shell", "hell", "ill", "id", "cant's"}
    assert {CONTRACTIONS[word] for word in ("cant", "wont", "shant", "aint")} == {"can't", "won't", "shan't", "ain't"}
    assert all(meant.replace("'", "") == word.replace("'", "") for word, meant in CONTRACTIONS.items())


@pytest.mark.parametrize("language", ["vi", "fr", ""])
def test_other_languages_lose_no_word_and_no_diacritic(language: str) -> None:
    decomposed = unicodedata.normalize("NFD", "  Màu Xanh  Dương. ")

    assert normalize_answer(decomposed, language) == "màu xanh dương"
    assert normalize_answer("an toàn", language) == "an toàn"
    assert normalize_answer("Ở trên A, the một!", language) == "ở trên a, the một"
    assert normalize_answer("«50 %»", language) == "50 %"
    assert normalize_answer("-2", language) == "-2"
    assert answer_tokens("Mèo, (chó) “đen”!", language) == ["mèo", "chó", "đen"]


def test_different_vietnamese_words_stay_different() -> None:
    syllables = ["ma", "má", "mà", "mả", "mã", "mạ", "dan", "đan"]

    assert len({normalize_answer(syllable, "vi") for syllable in syllables}) == len(syllables)
    assert token_f1("má", "ma", "vi") == 0


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (7, 1), (10, 1)])
def test_ten_references_give_the_worked_cases(matches: int, accuracy: float) -> None:
    answers = ["red"] * matches + [f"other {index}" for index in range(10 - matches)]

    assert soft_accuracy("Red.", answers) == pytest.approx(accuracy, abs=1e-15)


@pytest.mark.parametrize("number", range(2, 13))
def test_soft_accuracy_is_the_mean_over_leaving_each_reference_out(number: int) -> None:
    for matches in range(number + 1):
        answers = ["2"] * matches + ["dog"] * (number - matches)
        needed = min(3, max(1, number - 1))
        subsets = itertools.combinations(answers, number - 1)
        expected = np.mean([min(subset.count("2") / needed, 1) for subset in subsets])

        assert soft_accuracy("two", answers) == pytest.approx(expected, abs=1e-12)
    assert accuracy_of_matches(number, number) == 1


def test_one_reference_is_exact_match() -> None:
    assert soft_accuracy("the Cat", ["cat"]) == exact_match("the Cat", "cat") == 1
    assert soft_accuracy("dog", ["cat"]) == exact_match("dog", "cat") == 0


def test_saying_nothing_is_never_right() -> None:
    for language in ("en", "vi"):
        assert soft_accuracy("", ["a"] * 10, language) == 0
        assert soft_accuracy("", ["?"], language) == 0
        assert token_f1("", "cat", language) == 0


def test_the_best_answer_of_a_vocabulary_is_found() -> None:
    answers = ["Red"] * 3 + ["dark red"] * 5 + ["maroon"] * 2

    for vocabulary in ({"red", "maroon"}, {"dark red", "red"}, {"blue"}):
        expected = max(soft_accuracy(answer, answers) for answer in vocabulary)
        assert best_accuracy(vocabulary, answers, "en") == expected


def test_token_f1_counts_repeated_words() -> None:
    assert token_f1("red red", "red red car", "en") == pytest.approx(0.8)
    assert token_f1("red red car", "red car", "en") == pytest.approx(0.8)
    assert token_f1("car red", "red car", "en") == 1
