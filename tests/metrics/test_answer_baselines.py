"""Answers without looking: as good as the question allows, no worse than the majority, the same every time."""

import random

import numpy as np
import pytest
import torch

from eomt.metrics import answer_baselines
from eomt.metrics.answer_baselines import majority_answer, question_only

# P(answer | question); no sum over words and pairs tells the last four apart, only the whole question does
DISTRIBUTION = {
    "what colour is the sky?": {"blue": 0.7, "grey": 0.3},
    "what colour is the grass?": {"green": 0.9, "blue": 0.1},
    "how many birds?": {"2": 0.5, "3": 0.3, "1": 0.2},
    "is the red new car here?": {"yes": 0.8, "no": 0.2},
    "is the blue new car here?": {"no": 0.8, "yes": 0.2},
    "is the red new bus here?": {"no": 0.7, "yes": 0.3},
    "is the blue new bus here?": {"yes": 0.7, "no": 0.3},
}


def draw(number: int, seed: int) -> tuple[list[str], list[str]]:
    generator = np.random.default_rng(seed)
    questions = [str(question) for question in generator.choice(list(DISTRIBUTION), number)]
    answers = [
        str(generator.choice(list(DISTRIBUTION[question]), p=list(DISTRIBUTION[question].values())))
        for question in questions
    ]
    return questions, answers


def accuracy(predicted: list[str], answers: list[str]) -> float:
    return float(np.mean([guess == answer for guess, answer in zip(predicted, answers, strict=True)]))


def test_the_majority_is_the_most_frequent_answer_and_ties_have_an_order() -> None:
    assert majority_answer(["b", "a", "b"]) == "b"
    assert majority_answer(["b", "a", "c", "a", "b"]) == "a"


def test_it_reaches_the_figure_of_bayes() -> None:
    train, test = draw(2000, 0), draw(2000, 1)
    bayes = {question: max(answers, key=lambda a: answers[a]) for question, answers in DISTRIBUTION.items()}
    predicted = question_only(*train, test[0])

    assert predicted == [bayes[question] for question in test[0]]
    assert accuracy(predicted, test[1]) > accuracy([majority_answer(train[1])] * 2000, test[1]) + 0.3


def test_words_carry_over_to_questions_that_were_never_asked() -> None:
    things = [f"thing{index}" for index in range(60)]
    asked = [(f"what colour is the {thing}?", "red") for thing in things]
    asked += [(f"how many {thing} are there?", "two") for thing in things]
    questions, answers = zip(*asked, strict=True)

    assert question_only(questions, answers, ["How many ZEBRAS are there", "what colour is a zebra?"]) == ["two", "red"]


def test_a_word_tells_where_its_neighbours_are_unknown() -> None:
    questions = [f"x{index} {word} y{index} {word} z{index}" for index in range(60) for word in ("colour", "number")]

    assert question_only(questions, ["red", "two"] * 60, ["u colour v", "u number v"]) == ["red", "two"]


def test_where_the_question_says_nothing_it_answers_as_the_majority() -> None:
    generator = np.random.default_rng(0)
    questions = [" ".join(generator.choice([f"w{index}" for index in range(300)], 6)) for _ in range(900)]
    answers = [str(answer) for answer in generator.choice(["a", "b", "c", "d"], 900, p=[0.55, 0.15, 0.15, 0.15])]
    predicted = question_only(questions[:600], answers[:600], questions[600:])

    assert accuracy(predicted, answers[600:]) >= accuracy([majority_answer(answers[:600])] * 300, answers[600:]) - 0.02


def test_vietnamese_questions_are_told_apart_by_their_diacritics() -> None:
    questions = ["cái ghế ở đâu", "cái ghe ở đau"] * 20

    assert question_only(questions, ["bàn", "nước"] * 20, questions[:2]) == ["bàn", "nước"]


def test_it_is_the_same_every_time_and_leaves_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_baselines, "MOST_SAMPLES", 300)
    train = draw(1000, 0)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index, union-attr]
    with torch.inference_mode():
        first = question_only(*train, list(DISTRIBUTION))
    assert first == question_only(*train, list(DISTRIBUTION))
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    assert torch.equal(states[2], torch.get_rng_state())


@pytest.mark.parametrize("number", [1, 2, 7])
def test_few_questions_are_enough(number: int) -> None:
    assert question_only(["what is it?"] * number, ["cat"] * number, ["what?", ""]) == ["cat", "cat"]
