"""Answers to questions by graphs that run; no network of this package or of another is loaded."""

import unicodedata
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from eomt.export.decoding import decode
from eomt.export.record import AnsweringSettings
from eomt.export.sessions import Session
from eomt.export.tokens import GraphTokens


class GraphAnswerer:
    """Visual question answering, as `eomt.predictors.answers.Answerer`.

    Args:
        sessions: The graphs `vision_encoder` and `answer`, or `vision_encoder`, `text_encoder` and `decoder`.
        img_size: Height and width of an image.
        settings: Answers to choose from, or how they are written.
        tokens: Makes texts of what was written.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        img_size: tuple[int, int],
        settings: AnsweringSettings,
        tokens: GraphTokens,
    ) -> None:
        self.sessions, self.img_size, self.settings, self.tokens = sessions, img_size, settings, tokens

    def answer(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 16,
    ) -> list[str]:
        """Return the answers; see `eomt.models.DeterministicVQA.answer`."""
        if self.settings.answers is None:
            tokens = self.generate(
                images, input_ids, attention_mask, image_index, vision_tokens, num_beams, max_new_tokens
            )
            return [unicodedata.normalize("NFC", text.strip()) for text in self.tokens.texts(tokens)]
        asked = self._asked(images, input_ids, attention_mask, image_index, vision_tokens)
        (logits,) = self.sessions["answer"](**asked)
        return [self.settings.answers[index] for index in logits.argmax(1).tolist()]

    def generate(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 16,
    ) -> list[list[int]]:
        """Return the tokens of the answers, each as long as it is; see `eomt.models.DeterministicVQA.generate`."""
        generation = self.settings.generation
        assert generation is not None, "the classification head generates nothing: see `answer`"
        asked = self._asked(images, input_ids, attention_mask, image_index, vision_tokens)
        states, mask = self.sessions["text_encoder"](**asked)

        def next_logits(questions: Sequence[int], before: Tensor) -> Tensor:
            rows = torch.tensor(questions)
            (logits,) = self.sessions["decoder"](
                encoder_states=states[rows], encoder_attention_mask=mask[rows], decoder_input_ids=before
            )
            return logits

        return decode(next_logits, len(states), generation.start, generation.ends, num_beams, max_new_tokens)

    def _asked(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None,
        vision_tokens: Tensor | None,
    ) -> dict[str, Tensor]:
        """Return what a graph takes of questions: the tokens of each one's image, and its own."""
        if vision_tokens is None:
            assert images is not None, "either images or vision_tokens"
            (vision_tokens,) = self.sessions["vision_encoder"](image=images)
        seen = vision_tokens if image_index is None else vision_tokens[image_index]
        return {"vision_tokens": seen, "input_ids": input_ids, "attention_mask": attention_mask}
