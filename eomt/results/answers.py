"""Answers without masks: whether a face is a morph, what is asked of an image, what was hidden of it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from eomt.pictures.colors import INK, PAPER
from eomt.pictures.text import draw_text, line_height, wrapped
from eomt.results.result import Result

DECISIONS = ("bonafide", "morph")
# ISO/IEC 30107-3 reports such images apart from both classes
FAILED = "failed to process"
TEXT_SIZE = 16
LEAST_WIDTH = 320


@dataclass(repr=False)
class MorphResult(Result):
    """Whether a face is a morph.

    Args:
        score: Probability of a morph, 0 to 1.
        threshold: The score from which an image counts as a morph, chosen in validation; None if none was.
        processed: Whether the image shows anything: one color all over can be no face.
    """

    score: float
    threshold: float | None = None
    processed: bool = True

    @property
    def is_morph(self) -> bool | None:
        """Whether the score reaches the threshold; None without one."""
        return None if self.threshold is None else self.score >= self.threshold

    @property
    def decision(self) -> str:
        """What the score means: bonafide, morph or "failed to process"; "" without a threshold."""
        if not self.processed:
            return FAILED
        return "" if self.is_morph is None else DECISIONS[self.is_morph]

    def draw(self) -> Image.Image:
        """Return the image with the score below it."""
        return with_text(self.image, [self._said()])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row: file, score, threshold, whether it is a morph, whether it could be processed, decision."""
        return [
            {
                "file": self.name,
                "score": self.score,
                "threshold": "" if self.threshold is None else self.threshold,
                "morph": "" if self.is_morph is None else int(self.is_morph),
                "processed": int(self.processed),
                "decision": self.decision,
            }
        ]

    def _said(self) -> str:
        verdict = {None: "no threshold", True: "morph", False: "bona fide"}[self.is_morph]
        return f"score {self.score:.3f}: {verdict}"


@dataclass(repr=False)
class AnswerResult(Result):
    """An answer to a question about an image.

    Args:
        question: The question.
        answer: The answer.
    """

    question: str
    answer: str

    def draw(self) -> Image.Image:
        """Return the image with question and answer below it."""
        return with_text(self.image, [self.question, self.answer])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row: file, question, answer."""
        return [{"file": self.name, "question": self.question, "answer": self.answer}]

    def _said(self) -> str:
        return f"{self.question!r}: {self.answer!r}"


@dataclass(repr=False)
class ReconstructionResult(Result):
    """What a masked autoencoder makes of the part of an image that it sees; `image` is at the network's size.

    Args:
        masked: What it saw, uint8 RGB `(H, W, 3)`; the rest is gray.
        reconstruction: What it made of it, uint8 RGB `(H, W, 3)`.
    """

    masked: np.ndarray
    reconstruction: np.ndarray

    def draw(self) -> Image.Image:
        """Return the image, what was seen of it, and the reconstruction, side by side."""
        return Image.fromarray(np.concatenate([self.image, self.masked, self.reconstruction], axis=1))

    def rows(self) -> list[dict[str, Any]]:
        """Return one row: file, and the mean difference between image and reconstruction, 0 to 255."""
        difference = np.abs(self.image.astype(float) - self.reconstruction.astype(float)).mean()
        return [{"file": self.name, "difference": float(difference)}]


def with_text(image: np.ndarray, texts: list[str]) -> Image.Image:
    """Return an image with lines of text below it."""
    picture = Image.fromarray(image)
    width = max(picture.width, LEAST_WIDTH)
    lines = [line for text in texts for line in wrapped(text, TEXT_SIZE, width - TEXT_SIZE)]
    height = line_height(TEXT_SIZE)
    canvas = Image.new("RGB", (width, picture.height + height * len(lines) + TEXT_SIZE // 2), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    for number, line in enumerate(lines):
        draw_text(canvas, (TEXT_SIZE // 2, picture.height + number * height), line, TEXT_SIZE, INK)
    return canvas
