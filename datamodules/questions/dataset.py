"""Samples of questions about images, and the batches they fill."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from datamodules.common.kept import KeptSamples
from datamodules.common.reading import read_pixels
from datamodules.common.sampling import PADDING_INDEX
from datamodules.questions.rows import QuestionRow
from datamodules.questions.tokens import TokenTable
from datamodules.questions.vocabulary import index_answers
from eomt.utils.answers import normalize_answer
from eomt.utils.labels import IGNORED_TOKEN

UNKNOWN_ANSWER = -1


class QuestionDataset(Dataset[dict[str, Any]]):
    """Questions with the images that they are about; an index may come with a seed, which nothing here needs.

    A sample holds `image` (3, *size) uint8 RGB, `image_name`, the texts `name`, `question`, `answer` and
    `question_type`, `answers` (list of texts), `input_ids` and `labels` (int64 tokens of question and answer),
    `answer_index` (int64, -1 where the answer is not in the vocabulary) and in training `weight` (float32). Without an
    answer there are no `labels`.
    `PADDING_INDEX` gives the first question without a name.

    An image is decoded once for the questions of a batch, and for those that follow in the next one; many are decoded
    once in all, see `KeptSamples`.

    Args:
        rows: The questions.
        tokens: Token ids of all their texts.
        answers: The vocabulary.
        language: Whose rules decide which answers are equal.
        size: Height and width of the images, which are squashed to it.
        weights: Weight of each question, for training; None in evaluation.
    """

    def __init__(
        self,
        rows: Sequence[QuestionRow],
        tokens: TokenTable,
        answers: Sequence[str],
        language: str,
        size: tuple[int, int],
        weights: np.ndarray | None = None,
    ) -> None:
        self.rows = rows
        # without the tokenizer, which processes that read files need not have
        self.token_ids, self.labels = tokens.ids, tokens.labels
        self.language = language
        self.index_of_answer = index_answers(answers, language)
        self.size = size
        self.weights = weights
        self._last_image: dict[str, Tensor] = {}
        self._read = KeptSamples(self._decode)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: tuple[int, int] | int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[tuple[int, int] | int]) -> list[dict[str, Any]]:
        """Return the samples of a batch; `DataLoader` asks for them so."""
        # Lightning's overfit_batches takes the sampler away, and with it the seeds
        positions = [index[0] if isinstance(index, tuple) else index for index in indices]
        images = self._last_image
        samples = []
        for position in positions:
            row = self.rows[max(position, 0)]
            name = str(row.image)
            if name not in images:
                (images[name],) = self._read(row.image)
            sample = {"image": images[name], "image_name": name, **self._texts(row)}
            if position == PADDING_INDEX:
                sample["name"] = ""
            if self.weights is not None:
                sample["weight"] = torch.tensor(self.weights[position], dtype=torch.float32)
            samples.append(sample)
        self._last_image = {samples[-1]["image_name"]: samples[-1]["image"]}
        return samples

    def blank(self) -> dict[str, Any]:
        """Return a sample without a name and with a black image."""
        image = torch.zeros(3, *self.size, dtype=torch.uint8)
        return {"image": image, "image_name": "", **self._texts(self.rows[0]), "name": ""}

    def _decode(self, image: Path) -> tuple[Tensor]:
        return (F.resize(read_pixels(image), list(self.size), antialias=True),)

    def _texts(self, row: QuestionRow) -> dict[str, Any]:
        index = self.index_of_answer.get(normalize_answer(row.answer, self.language), UNKNOWN_ANSWER)
        return {
            "name": row.name,
            "question": row.question,
            "answer": row.answer,
            "answers": list(row.answers),
            "question_type": row.question_type,
            "input_ids": torch.tensor(self.token_ids[row.question], dtype=torch.int64),
            "labels": torch.tensor(self.labels[row.answer] if row.answer else [], dtype=torch.int64),
            "answer_index": torch.tensor(index),
        }


def collate_questions(samples: Sequence[dict[str, Any]], padding_id: int) -> dict[str, Any]:
    """Return a batch of B questions about I images.

    Args:
        samples: Of a `QuestionDataset`.
        padding_id: Token that fills up shorter questions.

    Returns:
        `image` (I, 3, H, W) uint8, each image once; `image_name`, I texts; `image_index` (B,) int64, which of them a
        question is about; `input_ids` and `attention_mask` (B, T) int64; `labels` (B, L) int64, filled up with -100;
        `answer_index` (B,) int64; `weight` (B,) float32 in training; and lists of B for the rest.
    """
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    images = dict(zip(batch["image_name"], batch["image"], strict=True))
    place = {name: index for index, name in enumerate(images)}
    token_masks = [torch.ones_like(ids) for ids in batch["input_ids"]]
    batch |= {
        "image": torch.stack(list(images.values())),
        "image_index": torch.tensor([place[name] for name in batch["image_name"]]),
        "image_name": list(images),
        "input_ids": pad_sequence(batch["input_ids"], batch_first=True, padding_value=padding_id),
        "attention_mask": pad_sequence(token_masks, batch_first=True),
        "labels": pad_sequence(batch["labels"], batch_first=True, padding_value=IGNORED_TOKEN),
        "answer_index": torch.stack(batch["answer_index"]),
    }
    if "weight" in batch:
        batch["weight"] = torch.stack(batch["weight"])
    return batch
