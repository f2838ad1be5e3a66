"""What a network answered to each question, as files and pictures, and what answers without looking are worth."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.evaluation import EvaluatedBatch, EvaluationCallback, Stage, begins_run, check_num_samples
from callbacks.pictures.answers import AnswerSample, answer_sheet, by_question, chosen, samples_of
from callbacks.pictures.output import save_picture, show_picture
from callbacks.results.answer_comparison import (
    Comparison,
    accuracies_of_types,
    baseline_accuracies,
    measured_comparison,
    report_comparison,
    report_types,
)
from callbacks.results.tables import file_of_test, gather_rows, write_table
from callbacks.run.run_folder import PREDICTIONS
from callbacks.run.saved_state import ANSWER_STATE, checked_state
from eomt.errors import UserError
from eomt.metrics.answer_scores import soft_accuracy
from eomt.tasks.data import QuestionData, data_of
from eomt.tasks.visual_question_answering import VisualQuestionAnswering
from eomt.utils.files import write_file

log = logging.getLogger("eomt")

TEST_COLUMNS = ["name", "image", "question", "type", "answer", "predicted", "blank", "accuracy", "blank_accuracy"]
PREDICT_COLUMNS = ["name", "image", "question", "predicted"]


class AnswerResults(EvaluationCallback[VisualQuestionAnswering]):
    """Logs baselines and writes files into the run's folder; for VisualQuestionAnswering.

    At validations and in `test`: `val_majority_accuracy` and `val_question_only_accuracy` (`test_...`), of the most
    frequent training answer and of `question_only`. At the end, a line sets the model beside them, for a fit at its
    best validation. `test` gives them for each type of question too, `test_majority_accuracy/<type>` and so on, with a
    line each: some types can be guessed, others not. Where no training answer is in the network's vocabulary there are
    no baselines.

    `pictures/train_batch.png`: questions of the first training batch. `pictures/val_step000500.png`: the same questions
    at every validation, of all types, with truth and answer; also sent to wandb and TensorBoard. `validate.png` and
    `test.png`: the same for these commands.

    After `test`, beside RunSummary's `results/<timestamp>_eval.json`: `..._answers.csv`, and `..._vqav2.json` in the
    result format of VQAv2. After `predict`: `predictions/vqav2.json`, beside PredictionFiles' `predictions.csv`.

    Args:
        num_samples: How many questions a picture shows.
    """

    task_class = VisualQuestionAnswering

    def __init__(self, num_samples: int = 8) -> None:
        self.num_samples = check_num_samples(num_samples)
        self._baselines: dict[str, dict[str, float]] = {}
        self._shown: list[AnswerSample] = []
        self._rows: list[dict[str, Any]] = []
        self._best: Comparison | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best validation so far."""
        return {"best": self._best and asdict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            UserError: It is no comparison.
        """
        best = checked_state(state_dict, ANSWER_STATE, self)["best"]
        self._best = Comparison(**best) if best else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the first batch of a run, not of a resumed one."""
        if begins_run(trainer, batch_idx):
            assert isinstance(pl_module, VisualQuestionAnswering)
            samples = chosen([], samples_of(batch, None, pl_module.language), self.num_samples)
            save_picture(answer_sheet(by_question(samples)), self.folder / "pictures" / "train_batch.png")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the best validation beside the baselines."""
        if self._best is not None:
            report_comparison(trainer, f"val, best at step {self._best.step}", self._best)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the baselines, for they are those of other data where a callback serves two runs.

        Raises:
            UserError: The task is another one.
        """
        super().setup(trainer, pl_module, stage)
        self._baselines = {}

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted evaluation may have left."""
        self._shown, self._rows = [], []

    def take(self, trainer: Trainer, task: VisualQuestionAnswering, evaluated: EvaluatedBatch) -> None:
        """Keep the answers of `test`, and of validation and `test` the few questions to show."""
        batch, outputs = evaluated.batch, evaluated.outputs
        if evaluated.stage == "predict":
            return
        samples = samples_of(batch, outputs["predicted"], task.language)
        self._shown = chosen(self._shown, samples, self.num_samples)
        if evaluated.stage == "val":
            return
        for place, row in _rows_of(batch, outputs["predicted"]):
            references, blank = batch["answers"][place], outputs["blank"][place]
            row |= {
                "type": batch["question_type"][place],
                "answer": batch["answer"][place],
                "blank": blank,
                "accuracy": soft_accuracy(row["predicted"], references, task.language),
                "blank_accuracy": soft_accuracy(blank, references, task.language),
            }
            self._rows.append(row)

    def end_epoch(self, trainer: Trainer, task: VisualQuestionAnswering, stage: Stage) -> None:
        """Log the baselines and draw."""
        figures = self._baselines_of(trainer, task, stage)
        if stage == "test":
            figures |= accuracies_of_types(gather_rows(self._rows), "blank_accuracy")
        for name, value in figures.items():
            # the same on all ranks; sync_dist only tells Lightning so
            task.log(f"{stage}_{name}", value, sync_dist=True)
        samples = chosen(gather_rows(self._shown), [], self.num_samples)
        if samples and trainer.is_global_zero:
            show_picture(trainer, self.folder, answer_sheet(by_question(samples)))

    def end(self, trainer: Trainer, task: VisualQuestionAnswering, stage: Stage) -> None:
        """Write the answers, and set the model beside the baselines."""
        if stage == "val":
            comparison = measured_comparison(trainer, stage)
            if trainer.state.fn != "fit":
                report_comparison(trainer, stage, comparison)
            elif self._best is None or comparison.figures["accuracy"] > self._best.figures["accuracy"]:
                self._best = comparison
            return
        if stage == "predict":
            return
        rows = gather_rows(self._rows)
        if trainer.is_global_zero:
            _write_answers(file_of_test(trainer, "AnswerResults", "answers.csv"), TEST_COLUMNS, rows)
        report_comparison(trainer, stage, measured_comparison(trainer, stage))
        report_types(trainer, sorted({row["type"] for row in rows} - {""}))

    def write_joined(self, lines: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Write all answers of `predict` as VQAv2's results."""
        path = self.folder / PREDICTIONS / "vqav2.json"
        _write_vqav2(path, ((line["name"], line["rows"][0]["answer"]) for line in lines()))
        log.info("Answers as VQAv2's results: %s", path)

    def _baselines_of(self, trainer: Trainer, task: VisualQuestionAnswering, split: str) -> dict[str, float]:
        """Return the baselines of a split, measured once; those of types in `test` alone."""
        if split not in self._baselines:
            data = data_of(trainer)
            if not isinstance(data, QuestionData):
                raise UserError(f"data: {type(data).__name__}; AnswerResults needs questions, as of datamodules.VQACsv")
            self._baselines[split] = baseline_accuracies(data.rows("train"), data.rows(split), task.language)
        return {name: value for name, value in self._baselines[split].items() if split == "test" or "/" not in name}


def _rows_of(batch: Mapping[str, Any], predicted: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return the questions of a batch that are no padding, as rows of a table, each with its place in the batch."""
    images = [batch["image_name"][index] for index in batch["image_index"].tolist()]
    columns = zip(batch["name"], images, batch["question"], predicted, strict=True)
    rows = [dict(zip(PREDICT_COLUMNS, values, strict=True)) for values in columns]
    return [(place, row) for place, row in enumerate(rows) if row["name"]]


def _write_answers(table: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write the answers as a CSV, and beside it as VQAv2's results."""
    answers = table.with_name(table.name.replace("answers.csv", "vqav2.json"))
    write_table(table, columns, rows)
    _write_vqav2(answers, ((row["name"], row["predicted"]) for row in rows))
    log.info("%d answers: %s, and as VQAv2's results: %s", len(rows), table, answers)


def _write_vqav2(path: Path, answers: Iterable[tuple[str, str]]) -> None:
    """Write names of questions and answers in the result format of VQAv2, one at a time."""

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("[")
            for number, (name, answer) in enumerate(answers):
                found = {"question_id": _question_id(name), "answer": answer}
                file.write((", " if number else "") + json.dumps(found, ensure_ascii=False))
            file.write("]\n")

    write_file(path, write)


def _question_id(name: str) -> int | str:
    """Return a name as VQAv2's evaluation knows its questions: a number, where it is one."""
    return int(name) if name.isascii() and name.isdecimal() and name == str(int(name)) else name
