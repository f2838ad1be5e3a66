"""Metrics of visual question answering, by type of question, that do not depend on batches or processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eomt.metrics.answer_scores import best_accuracy, exact_match, soft_accuracy, token_f1
from eomt.metrics.row_metric import RowMetric
from eomt.metrics.statistics import mean
from eomt.utils.answers import normalize_answer


@dataclass(frozen=True, order=True)
class Answered:
    """A question that was answered: its name and type, what was predicted, and the references."""

    name: str
    predicted: str
    answers: tuple[str, ...]
    answer: str
    question_type: str
    language: str


class VQAMetric(RowMetric[Answered]):
    """Scores of answers; see `eomt.metrics.answer_scores` for their definitions.

    A question given twice counts once, and one without a name (that only fills up the last step of a process) not at
    all. Figures are the same for 1 or 2 processes, in any order, to the last digit.
    """

    def __init__(self, answers: Sequence[str] | None = None) -> None:
        """Set up the metric.

        Args:
            answers: The vocabulary of training; None where it is not known.
        """
        super().__init__()
        self.vocabulary = None if answers is None else list(answers)

    @staticmethod
    def key(row: Answered) -> str:
        """Return the question's name."""
        return row.name

    def update(
        self,
        predicted: Sequence[str],
        answers: Sequence[Sequence[str]],
        answer: Sequence[str],
        question_type: Sequence[str],
        name: Sequence[str],
        language: str,
    ) -> None:
        """Take in a batch.

        Args:
            predicted: B predicted answers.
            answers: All references of each, one or more.
            answer: The main reference of each.
            question_type: B names; "" belongs to no type.
            name: B names of questions, each once; questions without one are not counted.
            language: Of questions and answers, as "en"; see `normalize_answer`.
        """
        for values in zip(name, predicted, answers, answer, question_type, strict=True):
            if values[0]:
                self.rows.append(Answered(values[0], values[1], tuple(values[2]), *values[3:], language))

    def compute(self) -> dict[str, float]:
        """Return the figures of everything counted so far, in all processes.

        Returns:
            `accuracy`: mean soft accuracy of VQAv2 against all references. Against the main reference: means of
            `exact_match` and `f1` (of words).

            `accuracy/<type>` and `count/<type>`: accuracy and number of the questions of a type; `accuracy_macro`: the
            mean over types. `n_questions`: their number.

            With a vocabulary, `oov_rate`: share of the main references that are not in it, and `ceiling`: the accuracy
            of always choosing the best answer in it, which bounds networks that choose.

            nan if nothing was evaluated.
        """
        rows = self.collected()
        accuracy = np.array([soft_accuracy(row.predicted, row.answers, row.language) for row in rows])
        figures = {"accuracy": mean(accuracy)}
        for name, score in (("exact_match", exact_match), ("f1", token_f1)):
            figures[name] = mean(np.array([score(row.predicted, row.answer, row.language) for row in rows]))
        types = np.array([row.question_type for row in rows], dtype=object)
        found = sorted(set(types.tolist()) - {""})
        of_types = {name: accuracy[types == name] for name in found}
        figures["accuracy_macro"] = mean(np.array([values.mean() for values in of_types.values()]))
        figures |= {f"accuracy/{name}": float(values.mean()) for name, values in of_types.items()}
        figures |= {f"count/{name}": float(len(values)) for name, values in of_types.items()}
        figures["n_questions"] = float(len(rows))
        return figures | self._of_vocabulary(rows)

    def _of_vocabulary(self, rows: list[Answered]) -> dict[str, float]:
        if self.vocabulary is None:
            return {}
        known = {
            language: {normalize_answer(answer, language) for answer in self.vocabulary}
            for language in {row.language for row in rows}
        }
        missing = [normalize_answer(row.answer, row.language) not in known[row.language] for row in rows]
        best = [best_accuracy(known[row.language], row.answers, row.language) for row in rows]
        return {"oov_rate": mean(np.array(missing)), "ceiling": mean(np.array(best))}
