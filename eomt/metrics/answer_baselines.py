"""Answers without looking: the most frequent one, and the best guess from the question alone."""

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from eomt.utils.answers import text_tokens

# with these, fitting takes less than a minute; rarer answers and features add next to nothing
MOST_SAMPLES = 40_000
MOST_ANSWERS = 300
MOST_FEATURES = 2_000
MOST_PASSES = 20
# every so many-th question is held out to choose the strength of the penalty
HELD_OUT = 5
# scikit-learn's C, from the strongest penalty to the weakest
INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0)


def majority_answer(train_answers: Sequence[str]) -> str:
    """Return the most frequent answer; of equally frequent ones the first of the alphabet.

    Args:
        train_answers: Answers of the training split, one or more.
    """
    return _by_frequency(train_answers)[0]


def question_only(train_questions: Sequence[str], train_answers: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Return the answers that a model gives which never sees an image.

    Multinomial logistic regression (scikit-learn's) with an L2 penalty on which words, pairs of neighboring words and
    whole questions occur, in lower case and without punctuation. Of some strengths of the penalty it takes the one that
    is best for a fifth of the training questions, and fits anew with all of them; the same in every run. Where none
    beats the most frequent answer, every answer is that one.

    It knows the 300 most frequent answers and the 2,000 most frequent features that more than one training question
    has. Of more than 40,000 training questions it takes a sample with a fixed seed.

    Args:
        train_questions: N questions of the training split.
        train_answers: Their answers.
        questions: M questions to answer.
    """
    # takes seconds to import
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    assert len(train_questions) == len(train_answers) > 0
    order = np.random.default_rng(0).permutation(len(train_questions))[:MOST_SAMPLES].tolist()
    answers = _by_frequency([train_answers[index] for index in order])[:MOST_ANSWERS]
    known, majority = set(answers), [answers[0]] * len(questions)
    order = [index for index in order if train_answers[index] in known]
    targets = np.array([train_answers[index] for index in order])
    held_out = np.arange(len(order)) % HELD_OUT == 0
    if len(set(targets[~held_out])) < 2:
        return majority
    vectorizer = CountVectorizer(
        analyzer=_features, binary=True, min_df=2, max_features=MOST_FEATURES, dtype=np.float32
    )
    try:
        features = vectorizer.fit_transform([train_questions[index] for index in order])
    except ValueError:
        # no feature occurs twice
        return majority
    # the only solver whose passes are cheap with many answers and few features in each question
    model = LogisticRegression(solver="saga", max_iter=MOST_PASSES, tol=1e-3, random_state=0)
    best, most_hits = 0.0, int((targets[held_out] == answers[0]).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for inverse_penalty in INVERSE_PENALTIES:
            model.set_params(C=inverse_penalty).fit(features[~held_out], targets[~held_out])
            hits = int((model.predict(features[held_out]) == targets[held_out]).sum())
            if best and hits < most_hits:
                # weaker ones fit the training questions by heart
                break
            if hits > most_hits:
                best, most_hits = inverse_penalty, hits
        if not best:
            return majority
        model.set_params(C=best).fit(features, targets)
    return [str(answer) for answer in model.predict(vectorizer.transform(questions))]


def _by_frequency(answers: Sequence[str]) -> list[str]:
    counts = Counter(answers)
    return sorted(counts, key=lambda answer: (-counts[answer], answer))


def _features(question: str) -> list[str]:
    """Return a question's words, its pairs of words, the edges being words too, and the whole between bars."""
    words = text_tokens(question)
    padded = ["<", *words, ">"]
    pairs = [f"{first} {second}" for first, second in pairwise(padded)]
    return [*words, *pairs, f"| {' '.join(words)} |"]
