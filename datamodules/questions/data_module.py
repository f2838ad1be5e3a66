"""Common parts of the data modules of questions about images."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import DataLoader

from datamodules.common.checks import as_size, check_at_least
from datamodules.common.data_module import NetworkFact
from datamodules.common.image_data_module import ImageDataModule
from datamodules.common.reading import check_image
from datamodules.common.splits import SPLITS, SPLITS_OF_STAGE
from datamodules.common.threads import map_in_threads
from datamodules.common.to_predict import PredictPath, find_images
from datamodules.questions.answer_weights import read_answer_weights
from datamodules.questions.dataset import QuestionDataset, collate_questions
from datamodules.questions.images import ImageFinder
from datamodules.questions.rows import (
    OnMissing,
    QuestionRow,
    QuestionTable,
    normalize_text,
    number_images,
    order_by_image,
    read_questions,
)
from datamodules.questions.sampling import ContiguousSampler, QuestionSampler
from datamodules.questions.statistics import count_questions, warn_of_long_answers, warn_of_truncation
from datamodules.questions.tokens import TokenTable
from datamodules.questions.types import Language, QuestionTypes, check_language
from datamodules.questions.vocabulary import count_answers, index_answers
from datamodules.questions.weights import weigh_rows, weigh_types
from eomt.errors import UserError, listed
from eomt.utils.answers import normalize_answer
from eomt.utils.paths import PathOrName, expand, expand_name

log = logging.getLogger("eomt")

DEFAULT_SIZE = 224
# as the official evaluation of VQAv2
DEFAULT_LANGUAGE = "en"


class QuestionDataModule(ImageDataModule, ABC):
    """Loaders of questions about images; subclasses read the files.

    Batches are those of `collate_questions`. In evaluation a sample with an empty name is padding of a rank.

    Args:
        types: The types of questions.
        language: Of questions and answers; its rules decide which answers are equal. None for English rules, and for
            whatever a tokenizer of several languages is set to.
        batch_size: Training questions per step and process.
        eval_batch_size: Questions per step in evaluation.
        num_workers: Processes that read files.
        img_size: Height and width of images, one number for a square; the command line fills in the network's; null
            for 224.
        tokenizer: Folder or hub id of a tokenizer; the command line fills in the network's.
        max_tokens: Tokens that the text model takes, longer questions are truncated; the command line fills in the
            network's; null for the tokenizer's own limit.
        min_answer_count: How often an answer must occur in training to be in the vocabulary; training rows with
            rarer ones are dropped. In evaluation a network that chooses from the vocabulary misses such answers, one
            that writes may still find them.
        answers: The vocabulary; null for that of the training split. The command line fills it in, so that a saved
            run needs no training data to predict.
        answer_weights: JSON that `python -m datamodules.compute_answer_weights` wrote; null for equal weights.
        type_weights: Weight of each type in training, 1 for those not named; null for equal weights. The guide's type
            loss is {count: 1.5, location: 1.4, colour: 1.3}.
        on_missing: Whether a missing image is an error, or its rows are left out and counted.
        questions_per_image: How many questions of an image stand together in training at most; null for all of
            them, so that an image is decoded once in an epoch.
        predict_csv: Questions to predict, as a CSV; `answer` may be absent.
        predict_path: Images to ask `predict_question` of: files, folders and patterns, one or a list.
        predict_question: That question.
        train_share: Share of the training images that is used, see `ImageDataModule`.

    Attributes:
        counts: After `setup`, per split the number of "images" and "questions" and of each type, of "truncated"
            questions, that the text model cannot take whole, and of rows "skipped" for want of their image; in
            training also of rows "dropped", whose answer is not in the vocabulary, "leaked", whose image is measured
            on, and "too_long", whose answer is more than the network writes (see `count_long_answers`).

    Raises:
        UserError: Fields contradict each other or have impossible values.
    """

    from_network: ClassVar[Mapping[str, NetworkFact]] = {
        "img_size": "img_size",
        "tokenizer": "tokenizer",
        "max_tokens": "max_tokens",
    }

    def __init__(
        self,
        types: QuestionTypes,
        language: Language | None,
        batch_size: int = 16,
        eval_batch_size: int = 32,
        num_workers: int = 0,
        img_size: int | tuple[int, int] | None = None,
        tokenizer: PathOrName | None = None,
        max_tokens: int | None = None,
        min_answer_count: int = 1,
        answers: list[str] | None = None,
        answer_weights: Path | None = None,
        type_weights: dict[str, float] | None = None,
        on_missing: OnMissing = "error",
        questions_per_image: int | None = None,
        predict_csv: Path | None = None,
        predict_path: PredictPath = None,
        predict_question: str | None = None,
        train_share: float = 1.0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, predict_path, train_share=train_share)
        check_at_least(
            min_answer_count=(min_answer_count, 1),
            max_tokens=(1 if max_tokens is None else max_tokens, 1),
            questions_per_image=(1 if questions_per_image is None else questions_per_image, 1),
        )
        if (predict_path is None) != (predict_question is None):
            raise UserError(
                "predict_path, predict_question: one is missing; give both, the images and what to ask, or none"
            )
        if predict_csv is not None and predict_path is not None:
            raise UserError("predict_csv, predict_path: both are given; give one of them")
        if predict_question is not None and not normalize_text(predict_question):
            raise UserError("predict_question: empty; write the question there")
        self.types = types
        self.language = language
        self.img_size = as_size(img_size, DEFAULT_SIZE)
        self.tokenizer = None if tokenizer is None else expand_name(tokenizer)
        self.max_tokens = max_tokens
        self.min_answer_count = min_answer_count
        self.answer_weights = expand(answer_weights)
        self.type_weights = weigh_types(type_weights or {}, types)
        self.on_missing: OnMissing = on_missing
        self.questions_per_image = questions_per_image
        self.predict_csv = expand(predict_csv)
        self.predict_question = normalize_text(predict_question) if predict_question is not None else None
        self._answers = answers
        self._found: dict[str, QuestionTable] | None = None
        self._tokens: TokenTable | None = None

    @abstractmethod
    def find_tables(self) -> dict[str, QuestionTable]:
        """Return the rows of "train", "val" and "test" (empty where there is none).

        Raises:
            UserError: A file cannot be used.
        """

    @abstractmethod
    def weights_command(self) -> str:
        """Return how the answer weights of this training split are made, for messages."""

    @property
    def question_types(self) -> list[str]:
        """Names of the types of questions."""
        return list(self.types.names)

    @property
    def answers(self) -> list[str]:
        """The answer vocabulary of the training split, by falling count, then by text.

        Of equal answers, such as "two" and "2", it holds the most frequent spelling.
        """
        if self._answers is None:
            rows = self._table("train").rows
            answers = (row.answer for row in rows)
            self._answers = list(count_answers(answers, self.min_answer_count, self.answer_language))
        return list(self._answers)

    @property
    def answer_language(self) -> str:
        """Language whose rules decide which answers are equal."""
        return self.language or DEFAULT_LANGUAGE

    def found_arguments(self) -> dict[str, Any]:
        """Return the answer vocabulary."""
        return {"answers": self.answers}

    def rows(self, split: str) -> list[QuestionRow]:
        """Return the questions of "train", "val" or "test", by image; in training those with a known answer alone."""
        rows = self._used(split).rows
        if split == "train":
            known = index_answers(self.answers, self.answer_language)
            rows = [row for row in rows if normalize_answer(row.answer, self.answer_language) in known]
        return rows

    def setup(self, stage: str | None = None) -> None:
        """Look at every image of the splits that the stage needs, fill `counts`, and say what was left out.

        Raises:
            UserError: A file cannot be used, a split is empty, or there are too few questions to train.
        """
        for split in SPLITS_OF_STAGE[stage]:
            rows = self.rows(split)
            if rows:
                self._check_files(rows, split)
                truncated = self._tokenized(rows).truncated
                self.counts[split] = count_questions(
                    rows, self._used(split), self.question_types, truncated, split == "train"
                )
            elif split != "test":
                raise UserError(
                    f"data: the {split} split of the questions is empty; more rows or another split are needed"
                )
        if stage in ("fit", None):
            self._check_training()

    def count_long_answers(self, most: int) -> None:
        """Count the training rows whose answers a network cannot write, and tell of them.

        Args:
            most: Tokens that the network writes; the one that ends an answer need not be among them.
        """
        rows = self.rows("train")
        labels = self._tokenized(rows).labels
        found = [row.answer for row in rows if len(labels[row.answer]) - 1 > most]
        self.counts["train"]["too_long"] = len(found)
        warn_of_long_answers(found, len(rows), most)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return shuffled batches, an image's questions together; what does not fill a batch is left out."""
        rows = self.rows("train")
        dataset = self._dataset(rows, self._weights(rows))
        images = number_images(rows)
        sampler = QuestionSampler(images, self.questions_per_image, self._world_size, self._rank, self._run_seed)
        return self.training_loader(dataset, sampler)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation questions, by image."""
        return self._ordered_loader(self.rows("val"))

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the test questions, by image.

        Raises:
            UserError: There is no test split.
        """
        rows = self.rows("test")
        if not rows:
            raise UserError("data: there is no test split; use validate, or give the files of one")
        return self._ordered_loader(rows)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the questions to predict, or else those of validation.

        Raises:
            UserError: Files to predict are missing or cannot be used.
        """
        rows = order_by_image(self.rows_to_predict())
        questions = dict.fromkeys(row.question for row in rows)
        check_language(questions.keys(), self.answer_language, "what is predicted")
        dataset = self._dataset(rows, None)
        warn_of_truncation("predict", rows, self._tokenized(rows).truncated)
        files = {row.name: row.image for row in rows}
        return self.prediction_loader(dataset, files, dataset.blank(), ContiguousSampler)

    def rows_to_predict(self) -> list[QuestionRow]:
        """Return the questions of `predict_csv`, or of `predict_path`, or else those of validation."""
        if self.predict_csv is not None:
            find = ImageFinder(self._image_folder(self.predict_csv))
            return read_questions(self.predict_csv, find, self.types, answered=False, on_missing=self.on_missing).rows
        if self.predict_path is not None and self.predict_question is not None:
            asked = QuestionRow(self.predict_question, "", (), self.types.guessed(self.predict_question), Path(), "")
            images = find_images(self.predict_path, "predict_path")
            return [replace(asked, image=image, name=name) for name, image in images.items()]
        return self.rows("val")

    def _image_folder(self, csv_file: Path) -> Path:
        return csv_file.parent

    def _table(self, split: str) -> QuestionTable:
        if self._found is None:
            tables = self.find_tables()
            for name in SPLITS:
                questions = [row.question for row in tables[name].rows]
                check_language(questions, self.answer_language, f"the {name} split")
            self._found = {split: replace(tables[split], rows=order_by_image(tables[split].rows)) for split in SPLITS}
        return self._found[split]

    def _used(self, split: str) -> QuestionTable:
        """Return the rows of a split; of train, those of the images that are used."""
        table = self._table(split)
        return (
            replace(table, rows=self.training_part(table.rows, lambda row: row.image.name))
            if split == "train"
            else table
        )

    def _dataset(self, rows: Sequence[QuestionRow], weights: np.ndarray | None) -> QuestionDataset:
        tokens = self._tokenized(rows)
        self.collate = partial(collate_questions, padding_id=tokens.padding_id)
        # new questions, which have no answers, need no training data
        answers = self.answers if any(row.answer for row in rows) else []
        return QuestionDataset(rows, tokens, answers, self.answer_language, self.img_size, weights)

    def _ordered_loader(self, rows: Sequence[QuestionRow]) -> DataLoader[dict[str, Any]]:
        sampler = ContiguousSampler(len(rows), self._world_size, self._rank)
        return self.evaluation_loader(self._dataset(rows, None), sampler)

    def _tokenized(self, rows: Sequence[QuestionRow]) -> TokenTable:
        if self._tokens is None or self._tokens.source != self.tokenizer:
            self._tokens = TokenTable(self.tokenizer, self.max_tokens, self.language)
        self._tokens.add((row.question for row in rows), (row.answer for row in rows if row.answer))
        return self._tokens

    def _check_files(self, rows: Sequence[QuestionRow], split: str) -> None:
        """Look at every image, and tell what the text model cannot take whole."""
        map_in_threads(check_image, sorted({row.image for row in rows}), f"Checking {split} images")
        warn_of_truncation(split, rows, self._tokenized(rows).truncated)

    def _check_training(self) -> None:
        counts = self.counts["train"]
        if counts["questions"] // self._world_size < self.batch_size:
            raise UserError(
                f"batch_size: {self.batch_size} on {self._world_size} processes is more than the "
                f"{counts['questions']} training questions; set a smaller batch_size"
            )
        if counts["dropped"]:
            log.info(
                "train: %d rows are dropped, whose answers are not in the vocabulary of %d",
                *(counts["dropped"], len(self.answers)),
            )
        weighted = [name for name, weight in self.type_weights.items() if weight != 1]
        if weighted and not any(counts[name] for name in weighted):
            raise UserError(
                f"type_weights: no training question is of type {listed(weighted)}; check the column type and "
                "question_types, or set type_weights: null"
            )
        # a file of another vocabulary is refused before the first step
        self._weights(self.rows("train"))

    def _weights_options(self) -> dict[str, Any]:
        """Return what `compute_answer_weights` is given for any data; None stands for its default."""
        return {
            "language": None if self.answer_language == DEFAULT_LANGUAGE else self.answer_language,
            "min_count": self.min_answer_count,
            "output": self.answer_weights,
        }

    def _weights(self, rows: Sequence[QuestionRow]) -> np.ndarray:
        of_answer = None
        if self.answer_weights is not None:
            of_answer = read_answer_weights(self.answer_weights, self.answers, self.weights_command())
        return weigh_rows(rows, of_answer, self.type_weights, self.answer_language)
