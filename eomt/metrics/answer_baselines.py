"""Answers without looking: the most frequent one, and the best guess from the question alone."""

import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from eomt.utils.answers import text_tokens

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

# with these, fitting takes less than a minute; rarer answers and features add next to nothing
MOST_SAMPLES = 40_000
MOST_ANSWERS = 300
MOST_FEATURES = 2_000
# questions seen in a fit, however often: few of them are gone through until the weights stand still
MOST_VISITS = 800_000
# every so many-th question is held out to choose the strength of the penalty
HELD_OUT = 5
# answers whose log-odds differ by less are equally likely: the fit is no more exact than that
TIE = 0.01
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
    finds the answers of a fifth of the training questions likeliest, and fits anew with all of them; the same in every
    run. Where none beats the answers' frequencies, every answer is the most frequent one. Of equally likely answers it
    takes the more frequent one, then the first of the alphabet.

    It knows the 300 most frequent answers and the 2,000 most frequent features that more than one training question
    has. Of more than 40,000 training questions it takes a sample with a fixed seed.

    Args:
        train_questions: N questions of the training split.
        train_answers: Their answers.
        questions: M questions to answer.
    """
    # takes seconds to import
    from sklearn.feature_extraction.text import CountVectorizer

    assert len(train_questions) == len(train_answers) > 0
    order = np.random.default_rng(0).permutation(len(train_questions))[:MOST_SAMPLES].tolist()
    answers = _by_frequency([train_answers[index] for index in order])[:MOST_ANSWERS]
    place = {answer: index for index, answer in enumerate(answers)}
    order = [index for index in order if train_answers[index] in place]
    vectorizer = CountVectorizer(
        analyzer=_features, binary=True, min_df=2, max_features=MOST_FEATURES, dtype=np.float32
    )
    try:
        features = vectorizer.fit_transform([train_questions[index] for index in order])
    except ValueError:
        # no feature occurs twice
        return [answers[0]] * len(questions)
    model = _fitted(features, np.array([place[train_answers[index]] for index in order]))
    if model is None:
        return [answers[0]] * len(questions)
    odds = model.predict_log_proba(vectorizer.transform(questions))
    likeliest = (odds > odds.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
    return [answers[index] for index in model.classes_[likeliest]]


def _fitted(features: csr_matrix, targets: np.ndarray) -> "LogisticRegression | None":
    """Return the model with the best strength of the penalty; None where no model beats the answers' frequencies.

    Args:
        features: Of the training questions, `(N, F)`.
        targets: Numbers of their answers, `(N,)`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    is_held_out = np.arange(len(targets)) % HELD_OUT == 0
    known, counts = np.unique(targets[~is_held_out], return_counts=True)
    # an answer that no other question has cannot be found
    held_out = np.flatnonzero(is_held_out & np.isin(targets, known))
    if len(known) < 2 or not len(held_out):
        return None
    columns = np.searchsorted(known, targets[held_out])
    # the only solver whose passes are cheap with many answers and few features in each question
    model = LogisticRegression(solver="saga", max_iter=MOST_VISITS // len(targets), random_state=0)
    best, best_likelihood = 0.0, float(np.log(counts / counts.sum())[columns].mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for inverse_penalty in INVERSE_PENALTIES:
            model.set_params(C=inverse_penalty).fit(features[~is_held_out], targets[~is_held_out])
            likelihoods = model.predict_log_proba(features[held_out])[np.arange(len(held_out)), columns]
            if likelihoods.mean() <= best_likelihood:
                # weaker ones would only learn the training questions by heart
                break
            best, best_likelihood = inverse_penalty, float(likelihoods.mean())
        return model.set_params(C=best).fit(features, targets) if best else None


def _by_frequency(answers: Sequence[str]) -> list[str]:
    counts = Counter(answers)
    return sorted(counts, key=lambda answer: (-counts[answer], answer))


def _features(question: str) -> list[str]:
    """Return a question's words, its pairs of words, the edges being words too, and the whole between bars."""
    words = text_tokens(question)
    padded = ["<", *words, ">"]
    pairs = [f"{first} {second}" for first, second in pairwise(padded)]
    return [*words, *pairs, f"| {' '.join(words)} |"]
