"""Answers without looking: the most frequent one, and the best guess from the question alone."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from eomt.utils.answers import text_tokens

# with these, fitting takes seconds; rarer answers and features add next to nothing
MOST_SAMPLES = 40_000
MOST_ANSWERS = 300
MOST_FEATURES = 2_000
MOST_STEPS = 40
# steps without gain after which there is no hope for more
PATIENCE = 5
# every so many-th question is held out to choose the number of steps
HELD_OUT = 5
# strength of the L2 penalty against one sample's loss
PENALTY = 0.5


def majority_answer(train_answers: Sequence[str]) -> str:
    """Return the most frequent answer; of equally frequent ones the first of the alphabet.

    Args:
        train_answers: Answers of the training split, one or more.
    """
    return _by_frequency(train_answers)[0]


def question_only(train_questions: Sequence[str], train_answers: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Return the answers that a model gives which never sees an image.

    Multinomial logistic regression with an L2 penalty on which words, pairs of neighbouring words and whole questions
    occur, in lower case and without punctuation. It starts from the frequencies of the answers and is fitted by L-BFGS,
    in as many steps as are best for a fifth of the training questions, then anew with all of them; the same in every
    run. Where no step helps, every answer is the most frequent one.

    It knows the 300 most frequent answers and the 2,000 most frequent features that more than one training question
    has. Of more than 40,000 training questions it takes a sample with a fixed seed.

    Args:
        train_questions: N questions of the training split.
        train_answers: Their answers.
        questions: M questions to answer.
    """
    assert len(train_questions) == len(train_answers) > 0
    order = np.random.default_rng(0).permutation(len(train_questions))[:MOST_SAMPLES].tolist()
    answers = _by_frequency([train_answers[index] for index in order])[:MOST_ANSWERS]
    place = {answer: index for index, answer in enumerate(answers)}
    samples = [
        (_features(train_questions[index]), place[train_answers[index]])
        for index in order
        if train_answers[index] in place
    ]
    columns = _columns(features for features, _ in samples)
    steps = _best_steps(samples, columns, len(answers))
    weights = _fitted(*_grouped(samples, columns, len(answers)), steps)
    scores = _matrix([_features(question) for question in questions], columns) @ weights
    return [answers[index] for index in scores.argmax(axis=1)]


Features = tuple[str, ...]
Sample = tuple[Features, int]


def _by_frequency(answers: Sequence[str]) -> list[str]:
    counts = Counter(answers)
    return sorted(counts, key=lambda answer: (-counts[answer], answer))


def _features(question: str) -> Features:
    """Return a question's words, its pairs of words, the edges being words too, and the whole between bars."""
    words = text_tokens(question)
    padded = ["<", *words, ">"]
    pairs = [f"{first} {second}" for first, second in pairwise(padded)]
    return tuple(dict.fromkeys([*words, *pairs, f"| {' '.join(words)} |"]))


def _columns(questions: Iterable[Features]) -> dict[str, int]:
    """Return the column of each feature that is used, from 1: column 0 is the constant."""
    frequency = Counter(feature for features in questions for feature in features)
    repeated = sorted((-number, feature) for feature, number in frequency.items() if number > 1)
    return {feature: column for column, (_, feature) in enumerate(repeated[:MOST_FEATURES], start=1)}


def _matrix(questions: Sequence[Features], columns: dict[str, int]) -> csr_matrix:
    """Return which features questions have, `(N, 1 + F)`; the first is the constant."""
    rows = [[0, *(columns[feature] for feature in features if feature in columns)] for features in questions]
    ends = np.cumsum([0, *map(len, rows)])
    indices = np.array([column for row in rows for column in row], dtype=np.int64)
    return csr_matrix((np.ones(len(indices), np.float32), indices, ends), shape=(len(rows), 1 + len(columns)))


def _grouped(samples: Sequence[Sample], columns: dict[str, int], num_answers: int) -> tuple[csr_matrix, np.ndarray]:
    """Return features `(N, 1 + F)` of the different questions, and how often each has which answer, `(N, C)`."""
    rows: dict[Features, int] = {}
    for features, _ in samples:
        rows.setdefault(features, len(rows))
    counts = np.zeros((len(rows), num_answers), np.float32)
    for features, answer in samples:
        counts[rows[features], answer] += 1
    return _matrix(list(rows), columns), counts


def _best_steps(samples: Sequence[Sample], columns: dict[str, int], num_answers: int) -> int:
    """Return the number of steps, 0 or more, after which most of the held-out questions are answered correctly."""
    held_out = samples[::HELD_OUT]
    fitted = [sample for index, sample in enumerate(samples) if index % HELD_OUT]
    features, counts = _grouped(held_out, columns, num_answers)
    hits = [counts.sum(axis=0)[0]]

    def follow(weights: np.ndarray) -> None:
        chosen = (features @ weights).argmax(axis=1)
        hits.append(counts[np.arange(len(counts)), chosen].sum())
        if max(hits) not in hits[-PATIENCE:]:
            raise StopIteration

    _fitted(*_grouped(fitted, columns, num_answers), MOST_STEPS, follow)
    return hits.index(max(hits))


def _fitted(
    features: csr_matrix, counts: np.ndarray, steps: int, follow: Callable[[np.ndarray], None] | None = None
) -> np.ndarray:
    """Return the weights, float32 `(1 + F, C)`, that fit counts `(N, C)` to features `(N, 1 + F)`.

    Args:
        features, counts: See `_grouped`.
        steps: Of L-BFGS.
        follow: Is given the weights after each step; StopIteration ends the fit.
    """
    shape = (features.shape[1], counts.shape[1])
    totals = counts.sum(axis=1, keepdims=True)
    transposed = features.T.tocsr()
    # the constant is not held down
    penalty = np.full((shape[0], 1), PENALTY, np.float32)
    penalty[0] = 0

    def unflat(flat: np.ndarray) -> np.ndarray:
        return flat.astype(np.float32).reshape(shape)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = unflat(flat)
        scores = features @ weights
        scores -= scores.max(axis=1, keepdims=True)
        value = -np.vdot(counts, scores)
        np.exp(scores, out=scores)
        sums = scores.sum(axis=1, keepdims=True)
        value += np.vdot(totals, np.log(sums)) + 0.5 * np.vdot(penalty * weights, weights)
        scores *= totals / sums
        scores -= counts
        gradient = transposed @ scores
        gradient += penalty * weights
        return float(value), gradient.ravel().astype(np.float64)

    start = np.zeros(shape)
    # half a sample for every answer, so that none is impossible
    start[0] = np.log(counts.sum(axis=0) + 0.5)
    if not steps:
        return unflat(start)
    callback = (lambda flat: follow(unflat(flat))) if follow else None
    options = {"maxiter": steps, "maxcor": 5}
    return unflat(minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", callback=callback, options=options).x)
