"""What a network answered to each question, as files and pictures, and what answers without looking are worth."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.pictures.answers import AnswerSample, answer_sheet, chosen, samples_of
from callbacks.pictures.loggers import log_image
from callbacks.pictures.masks import save_picture
from callbacks.results.tables import gathered, stem_of_results, write_table
from callbacks.run.run_folder import run_folder
from eomt.errors import UserError
from eomt.metrics.answer_baselines import majority_answer, question_only
from eomt.metrics.answer_scores import soft_accuracy
from eomt.tasks.visual_question_answering import VisualQuestionAnswering
from eomt.utils.answers import normalize_answer
from eomt.utils.files import write_file

log = logging.getLogger("eomt")

TEST_COLUMNS = ["name", "image", "question", "type", "answer", "predicted", "blank", "accuracy", "blank_accuracy"]
PREDICT_COLUMNS = ["name", "image", "question", "predicted"]
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
        """What is wrong, if anything is."""
        best = self.figures["accuracy"]
        if not best > self.figures.get("question_only_accuracy", -1.0):
            return "The model does NOT beat the question-only baseline: the images do not help it to answer"
        if not best > self.figures["blank_accuracy"]:
            return "The model answers no better than on a blank image: it does not look"
        return ""


class AnswerResults(Callback):
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
    result format of VQAv2. After `predict`: both as `predictions/<timestamp>_...`.

    Args:
        num_samples: how many questions a picture shows.
    """

    def __init__(self, num_samples: int = 8) -> None:
        if num_samples < 1:
            raise UserError(f"num_samples: {num_samples}, must be at least 1")
        self.num_samples = num_samples
        self._folder = Path()
        self._baselines: dict[str, dict[str, float]] = {}
        self._shown: list[AnswerSample] = []
        self._rows: list[dict[str, Any]] = []
        self._best: Comparison | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far."""
        return {"best": self._best and asdict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._best = Comparison(**state_dict["best"]) if state_dict["best"] else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(pl_module, VisualQuestionAnswering):
            raise UserError(f"callbacks: AnswerResults is for VisualQuestionAnswering, not {type(pl_module).__name__}")
        self._folder = run_folder(trainer)

    # training

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draws the first batch of a run, not of a resumed one."""
        if batch_idx == 0 and trainer.global_step == 0 and trainer.current_epoch == 0 and trainer.is_global_zero:
            samples = chosen([], samples_of(batch, None, _language(pl_module)), self.num_samples)
            save_picture(answer_sheet(samples), self._folder / "pictures" / "train_batch.png")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the best validation beside the baselines."""
        if self._best is not None:
            _report(trainer, f"val, best at step {self._best.step}", self._best)

    # validation

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted validation may have left."""
        self._shown = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the few questions to show."""
        self._keep(pl_module, batch, outputs["predicted"])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the baselines and draws."""
        self._log_baselines(trainer, pl_module, "val")
        step = trainer.global_step
        fits = trainer.state.fn == "fit"
        self._draw(trainer, f"val_step{step:06d}.png" if fits else "validate.png", "val_pictures" if fits else None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the comparison if it is the best one."""
        comparison = _comparison(trainer, "val")
        if trainer.state.fn != "fit":
            _report(trainer, "val", comparison)
        elif self._best is None or comparison.figures["accuracy"] > self._best.figures["accuracy"]:
            self._best = comparison

    # test

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops what an interrupted test may have left."""
        self._shown, self._rows = [], []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the answers."""
        language = _language(pl_module)
        self._keep(pl_module, batch, outputs["predicted"])
        for place, row in _rows_of(batch, outputs["predicted"]):
            self._rows.append(
                row
                | {
                    "type": batch["question_type"][place],
                    "answer": batch["answer"][place],
                    "blank": outputs["blank"][place],
                    "accuracy": soft_accuracy(row["predicted"], batch["answers"][place], language),
                    "blank_accuracy": soft_accuracy(outputs["blank"][place], batch["answers"][place], language),
                }
            )

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the baselines and draws."""
        self._log_baselines(trainer, pl_module, "test")
        for name, value in accuracies_of_types(gathered(self._rows), "blank_accuracy").items():
            pl_module.log(f"test_{name}", value, sync_dist=True)
        self._draw(trainer, "test.png", None)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the answers beside the figures."""
        rows = gathered(self._rows)
        if trainer.is_global_zero:
            _write_answers(stem_of_results(trainer, "AnswerResults"), TEST_COLUMNS, rows)
        _report(trainer, "test", _comparison(trainer, "test"))
        _report_types(trainer, sorted({row["type"] for row in rows} - {""}))

    # predict

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with nothing."""
        self._rows = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the answers."""
        self._rows += [row for _, row in _rows_of(batch, outputs["predicted"])]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a row for each question."""
        rows = gathered(self._rows)
        if trainer.is_global_zero:
            now = datetime.now().strftime("%Y%m%d-%H%M%S")
            _write_answers(self._folder / "predictions" / now, PREDICT_COLUMNS, rows)

    # parts

    def _keep(self, pl_module: LightningModule, batch: Any, predicted: Sequence[str]) -> None:
        self._shown = chosen(self._shown, samples_of(batch, predicted, _language(pl_module)), self.num_samples)

    def _draw(self, trainer: Trainer, file_name: str, logged_as: str | None) -> None:
        samples = chosen(gathered(self._shown), [], self.num_samples)
        self._shown = []
        if not samples or not trainer.is_global_zero:
            return
        picture = answer_sheet(samples)
        save_picture(picture, self._folder / "pictures" / file_name)
        if logged_as is not None:
            log_image(trainer.loggers, logged_as, picture, trainer.global_step)

    def _log_baselines(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        if split not in self._baselines:
            data = trainer.datamodule  # type: ignore[attr-defined]
            self._baselines[split] = baseline_accuracies(data.rows("train"), data.rows(split), _language(pl_module))
        for name, value in self._baselines[split].items():
            if "/" in name and split != "test":
                continue
            # the same on all ranks; sync_dist only tells Lightning so
            pl_module.log(f"{split}_{name}", value, sync_dist=True)


def baseline_accuracies(train: Sequence[Any], rows: Sequence[Any], language: str) -> dict[str, float]:
    """Returns `majority_accuracy` and `question_only_accuracy`, soft accuracies of answers without looking.

    They are there for all rows, and as `majority_accuracy/<type>` for those of a type. Without training rows there are
    none, which is logged.

    Args:
        train: rows of training, with `question` and `answer`.
        rows: that are answered, with `question`, `answers` and `question_type`.
        language: whose rules compare answers.
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
    """Returns the mean of a column over the rows of each `type`, as `<name>/<type>`; none of rows without a type."""
    types = sorted({row["type"] for row in rows} - {""})
    return {f"{name}/{kind}": float(np.mean([row[name] for row in rows if row["type"] == kind])) for kind in types}


def _language(pl_module: LightningModule) -> str:
    assert isinstance(pl_module, VisualQuestionAnswering)
    return pl_module.language


def _comparison(trainer: Trainer, stage: str, of_type: str = "") -> Comparison:
    found = {key: trainer.callback_metrics.get(f"{stage}_{key}{of_type}") for key in COMPARED}
    return Comparison(trainer.global_step, {key: float(value) for key, value in found.items() if value is not None})


def _report(trainer: Trainer, where: str, comparison: Comparison) -> None:
    if trainer.is_global_zero:
        log.info("Accuracy (%s): %s", where, comparison)
        if comparison.verdict:
            log.warning("%s", comparison.verdict)


def _report_types(trainer: Trainer, types: Sequence[str]) -> None:
    if trainer.is_global_zero:
        for kind in types:
            log.info("Accuracy (test, %s): %s", kind, _comparison(trainer, "test", f"/{kind}"))


def _rows_of(batch: Mapping[str, Any], predicted: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """The questions of a batch that are no padding, as rows of a table, each with its place in the batch."""
    images = [batch["image_name"][index] for index in batch["image_index"].tolist()]
    columns = zip(batch["name"], images, batch["question"], predicted, strict=True)
    rows = [dict(zip(PREDICT_COLUMNS, values, strict=True)) for values in columns]
    return [(place, row) for place, row in enumerate(rows) if row["name"]]


def _write_answers(stem: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    table, answers = (stem.with_name(f"{stem.name}_{end}") for end in ("answers.csv", "vqav2.json"))
    write_table(table, columns, rows)
    found = [{"question_id": _question_id(row["name"]), "answer": row["predicted"]} for row in rows]
    text = json.dumps(found, ensure_ascii=False) + "\n"
    write_file(answers, lambda beside: beside.write_text(text, encoding="utf-8"))
    log.info("%d answers: %s, and as VQAv2's results: %s", len(rows), table, answers)


def _question_id(name: str) -> int | str:
    """VQAv2's evaluation knows its questions by numbers; other data sets have names of any kind."""
    return int(name) if name.isascii() and name.isdecimal() and name == str(int(name)) else name
