"""Sheets of images with what was asked about them, the truth, and what was answered."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from callbacks.pictures.grid import MARGIN
from eomt.metrics.answer_scores import soft_accuracy
from eomt.pictures.colors import INK, PAPER, Color
from eomt.pictures.text import draw_text, line_height, wrapped

COLUMNS = 4
CARD_WIDTH = 300  # pixels
TEXT_SIZE = 17  # pixels
RIGHT: Color = (0, 128, 64)
WRONG: Color = (200, 30, 30)
FAINT: Color = (120, 120, 120)
# from this accuracy on most people would agree with an answer
MOSTLY = 0.5


@dataclass(frozen=True)
class AnswerSample:
    """A question about an image, uint8 `(3, H, W)`, its main answer, and how the model answered; None in training."""

    name: str
    image: Tensor
    question: str
    question_type: str
    truth: str
    predicted: str | None
    accuracy: float


def samples_of(batch: Mapping[str, Any], predicted: Sequence[str] | None, language: str) -> list[AnswerSample]:
    """Return the questions of a batch that are no padding; their images are views of it.

    Args:
        batch: As a VQA data module makes it.
        predicted: B answers; None in training.
        language: Whose rules compare answers.
    """
    samples = []
    for place, name in enumerate(batch["name"]):
        if not name:
            continue
        answer = None if predicted is None else predicted[place]
        samples.append(
            AnswerSample(
                name,
                batch["image"][int(batch["image_index"][place])],
                batch["question"][place],
                batch["question_type"][place],
                batch["answer"][place],
                answer,
                0.0 if answer is None else soft_accuracy(answer, batch["answers"][place], language),
            )
        )
    return samples


def chosen(kept: Sequence[AnswerSample], new: Sequence[AnswerSample], number: int) -> list[AnswerSample]:
    """Return the samples to show: as many of each type as possible, by a hash of their names.

    Choosing batch by batch, or on several processes and then among all, gives the same samples as choosing once, and
    so does every validation.

    Args:
        kept: Chosen before; images are on the CPU.
        new: Of a batch; what is chosen of them is copied to the CPU, for a view would keep the batch in memory.
        number: How many at most.
    """
    samples = sorted([*kept, *new], key=lambda sample: _draw_of(sample.name))
    met: dict[str, int] = {}
    ranked = []
    for sample in samples:
        rank = met.get(sample.question_type, 0)
        met[sample.question_type] = rank + 1
        # stable: within a rank the order of the hashes stays
        ranked.append((rank, sample))
    first = [sample for _, sample in sorted(ranked, key=lambda pair: pair[0])[:number]]
    known = {sample.name for sample in kept}
    return [s if s.name in known else replace(s, image=s.image.cpu().clone()) for s in first]


def _draw_of(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def by_question(samples: Sequence[AnswerSample]) -> list[AnswerSample]:
    """Return samples in the order of their types of question, then of their names."""
    return sorted(samples, key=lambda sample: (sample.question_type, sample.name))


def answer_sheet(samples: Sequence[AnswerSample]) -> Image.Image:
    """Draw cards in rows of four: image, question, truth, and in green or red the answer.

    Args:
        samples: At least one, in the order of the cards.

    Returns:
        An RGB picture.
    """
    assert samples, "a sheet needs at least one sample"
    cards = [_card(sample) for sample in samples]
    rows = [cards[start : start + COLUMNS] for start in range(0, len(cards), COLUMNS)]
    heights = [max(card.height for card in row) for row in rows]
    width = MARGIN + min(COLUMNS, len(cards)) * (CARD_WIDTH + MARGIN)
    sheet = Image.new("RGB", (width, MARGIN + sum(heights) + MARGIN * len(rows)), PAPER)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            sheet.paste(card, (MARGIN + column * (CARD_WIDTH + MARGIN), top))
        top += height + MARGIN
    return sheet


def _card(sample: AnswerSample) -> Image.Image:
    """Draw one image with its lines of text below."""
    image = to_pil_image(sample.image)
    # whole pixels when enlarged, so that it shows what the model sees
    enlarged = image.width < CARD_WIDTH
    method = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    image = image.resize((CARD_WIDTH, max(1, round(image.height * CARD_WIDTH / image.width))), method)
    texts: list[tuple[str, Color]] = [(sample.question, INK), (f"truth: {sample.truth}", INK)]
    if sample.predicted is not None:
        answer_color = RIGHT if sample.accuracy >= MOSTLY else WRONG
        # color alone tells nothing to some eyes
        score = "right" if sample.accuracy == 1 else "wrong" if sample.accuracy == 0 else f"{sample.accuracy:.2f}"
        texts.append((f"answer: {sample.predicted or '(nothing)'} ({score})", answer_color))
    if sample.question_type:
        texts.append((sample.question_type, FAINT))
    lines = [(line, color) for text, color in texts for line in wrapped(text, TEXT_SIZE, CARD_WIDTH)]
    card = Image.new("RGB", (CARD_WIDTH, image.height + len(lines) * line_height(TEXT_SIZE)), PAPER)
    card.paste(image, (0, 0))
    for number, (line, color) in enumerate(lines):
        draw_text(card, (0, image.height + number * line_height(TEXT_SIZE)), line, TEXT_SIZE, color)
    return card
