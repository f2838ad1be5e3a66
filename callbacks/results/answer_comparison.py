"""What a model's answers are worth beside answers without looking."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

from eomt.metrics.answer_baselines import majority_answer, question_only
from eomt.metrics.answer_scores import soft_accuracy
from eomt.tasks.data import AnsweredQuestion
from eomt.utils.answers import normalize_answer

log = logging.getLogger("eomt")

# `val_accuracy` and what stands beside it, in words
COMPARED = {
    "accuracy": "model",
    "blank_accuracy": "same model on a blank image",
    "question_only_accuracy": "question only",
    "majority_accuracy": "majority answer",
}


@dataclass(frozen=True)
class Comparison:
    """Accuracies of the model and of answers without looking, at a step; by those keys of `COMPARED` that are known."""

    step: int
    figures: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.figures[key]:.4f}" for key, name in COMPARED.items() if key in self.figures)

    @property
    def verdict(self) -> str:
        """What is wrong; "" if nothing is."""
        best = self.figures["accuracy"]
        if not best > self.figures.get("question_only_accuracy", -1.0):
            return "The model does NOT beat the question-only baseline: the images do not help it to answer"
        if not best > self.figures["blank_accuracy"]:
            return "The model answers no better than on a blank image: it does not look"
        return ""


def measured_comparison(trainer: Trainer, stage: str, of_type: str = "") -> Comparison:
    """Return the comparison that was just logged, of all questions or of those of a type, as `/<type>`."""
    found = {key: trainer.callback_metrics.get(f"{stage}_{key}{of_type}") for key in COMPARED}
    return Comparison(trainer.global_step, {key: float(value) for key, value in found.items() if value is not None})


def report_comparison(trainer: Trainer, where: str, comparison: Comparison) -> None:
    """Log a comparison and what is wrong, on the first process."""
    if trainer.is_global_zero:
        log.info("Accuracy (%s): %s", where, comparison)
        if comparison.verdict:
            log.warning("%s", comparison.verdict)


def report_types(trainer: Trainer, types: Sequence[str]) -> None:
    """Log the comparison of each type of question in a test, on the first process."""
    if trainer.is_global_zero:
        for kind in types:
            log.info("Accuracy (test, %s): %s", kind, measured_comparison(trainer, "test", f"/{kind}"))


def baseline_accuracies(
    train: Sequence[AnsweredQuestion], rows: Sequence[AnsweredQuestion], language: str
) -> dict[str, float]:
    """Return `majority_accuracy` and `question_only_accuracy`, soft accuracies of answers without looking.

    They are there for all rows, and as `majority_accuracy/<type>` for those of a type. Without training rows there are
    none, which is logged.

    Args:
        train: Rows of training.
        rows: Rows that are answered.
        language: Whose rules compare answers.
    """
    if not train:
        log.warning(
            "No training row has an answer of the network's vocabulary: there are no baselines beside the model"
        )
        return {}
    questions = [row.question for row in train]
    answers = [normalize_answer(row.answer, language) for row in train]
    guesses = {
        "majority_accuracy": [majority_answer(answers)] * len(rows),
        "question_only_accuracy": question_only(questions, answers, [row.question for row in rows]),
    }
    found: dict[str, float] = {}
    for name, guessed in guesses.items():
        scored = [
            {"type": row.question_type, name: soft_accuracy(guess, row.answers, language)}
            for guess, row in zip(guessed, rows, strict=True)
        ]
        found |= {name: float(np.mean([row[name] for row in scored]))} | accuracies_of_types(scored, name)
    return found


def accuracies_of_types(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return the mean of a column over the rows of each `type`, as `<name>/<type>`; none of rows without a type."""
    types = sorted({row["type"] for row in rows} - {""})
    return {f"{name}/{kind}": float(np.mean([row[name] for row in rows if row["type"] == kind])) for kind in types}
