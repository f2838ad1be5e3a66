"""Graphs of visual question answering: the vision encoder, and what answers with its tokens."""

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from datamodules.questions.tokens import set_language
from eomt.errors import UserError
from eomt.export.answering_runtime import GraphAnswerer
from eomt.export.exportable import Batch, Exportable
from eomt.export.graph import MOST, Graph
from eomt.export.record import TOKENIZER, AnsweringSettings, GenerationRecord
from eomt.export.tokens import GraphTokens, tokens_of
from eomt.metrics.vqa import VQAMetric
from eomt.models.network import Network
from eomt.models.parts.text_states import encoder_arguments
from eomt.models.parts.text_tower import decoder_of
from eomt.models.vqa import DeterministicVQA
from eomt.tasks import VisualQuestionAnswering
from eomt.utils.tokenizer import usable_positions

QUESTION = ("vision_tokens", "input_ids", "attention_mask")
# tokens before the next one, in the decoder's example
WRITTEN = 3


class VisionEncoderGraph(nn.Module):
    """From images to their patch tokens.

    Args:
        network: A merged DeterministicVQA.
    """

    def __init__(self, network: DeterministicVQA) -> None:
        super().__init__()
        self.encoder = network.vision_encoder

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return patch tokens, `(I, N, Dv)`, of images, uint8 `(I, 3, H, W)`."""
        return (self.encoder(image).float(),)


class QuestionGraph(nn.Module):
    """What encodes questions, each with the tokens of its image.

    With the encoder of a BART it stays in 32 bits: in 16 bits that looks for overflows in its own states, and what it
    then does cannot be traced.

    Args:
        network: A merged DeterministicVQA.
    """

    def __init__(self, network: DeterministicVQA) -> None:
        super().__init__()
        self.network = network

    def half(self) -> Self:
        """Return this, in 16 bits if its text model allows it."""
        return self if self.network.text_model.config.model_type == "bart" else super().half()


class AnswerGraph(QuestionGraph):
    """From questions, each with the tokens of its image, to the logits of the answers to choose from."""

    def forward(self, vision_tokens: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        """Return logits, `(B, A)`, given `(B, N, Dv)`, int64 `(B, T)` and `(B, T)`."""
        output = self.network(None, input_ids, attention_mask, vision_tokens=vision_tokens)
        return (output.logits.float(),)


class TextEncoderGraph(QuestionGraph):
    """From questions, each with the tokens of its image, to the states that the decoder attends to."""

    def forward(self, vision_tokens: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return states [vision; question], `(B, N + T, D)`, and their mask, given `(B, N, Dv)` and `(B, T)` twice."""
        fused = self.network.fuse(None, input_ids, attention_mask, None, vision_tokens)
        found = encoder_arguments(*fused)
        return found["encoder_outputs"].last_hidden_state.float(), found["attention_mask"]


class AnswerDecoderGraph(nn.Module):
    """From the tokens that were written to the logits of the next one.

    Args:
        network: A merged DeterministicVQA with a generative head.
    """

    def __init__(self, network: DeterministicVQA) -> None:
        super().__init__()
        self.decoder = decoder_of(network.text_model)
        self.head, self.bias = network.text_model.lm_head, network.text_model.final_logits_bias

    def forward(
        self, encoder_states: Tensor, encoder_attention_mask: Tensor, decoder_input_ids: Tensor
    ) -> tuple[Tensor]:
        """Return logits, `(B, V)`, given states `(B, S, D)`, their mask `(B, S)` and int64 `(B, L)`."""
        assert self.decoder is not None
        states = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoder_states.to(self.head.weight.dtype),
            encoder_attention_mask=encoder_attention_mask,
            use_cache=False,
        ).last_hidden_state[:, -1]
        return (self.head(states).float() + self.bias.float(),)


def answering_graphs(task: VisualQuestionAnswering, network: Network, batch: Batch, anomaly: list[str]) -> Exportable:
    """Return the graphs of visual question answering; see `eomt.export.of_tasks.exportable_of`.

    Raises:
        UserError: If the network has no tokenizer.
    """
    assert isinstance(network, DeterministicVQA)
    if network.tokenizer is None:
        raise UserError("tokenizer: null, and exported graphs are asked in words; give --model.network.tokenizer")
    tokenizer = copy.deepcopy(network.tokenizer)
    set_language(tokenizer, task.language)
    settings = _settings(task, network, tokenizer)
    tokens = tokens_of(settings, tokenizer)
    _check_tokens(tokens, tokenizer, batch["question"])

    def write_beside(folder: Path) -> None:
        tokenizer.save_pretrained(folder / TOKENIZER)

    return Exportable(
        _graphs(network, batch),
        settings,
        network,
        partial(GraphAnswerer, img_size=network.img_size, settings=settings, tokens=tokens),
        AnswerFigures(task, network),
        write_beside,
    )


def _graphs(network: DeterministicVQA, batch: Batch) -> list[Graph]:
    images = batch["image"] if len(batch["image"]) > 1 else batch["image"].repeat(2, 1, 1, 1)
    encoder = Graph(
        "vision_encoder", VisionEncoderGraph(network), {"image": images}, {"image": {0: "images"}}, ("vision_tokens",)
    )
    (seen,) = encoder.answers({"image": images})
    columns = [seen[batch["image_index"]], batch["input_ids"], batch["attention_mask"]]
    if len(columns[0]) == 1:
        columns = [column.repeat_interleave(2, 0) for column in columns]
    asked = dict(zip(QUESTION, columns, strict=True))
    of_tokens = {0: "batch", 1: "tokens"}
    varying = {"vision_tokens": {0: "batch"}, "input_ids": of_tokens, "attention_mask": of_tokens}
    limits = {"tokens": usable_positions(network.text_model.config) or MOST}
    if network.answer_head == "classification":
        return [encoder, Graph("answer", AnswerGraph(network), asked, varying, ("logits",), limits)]
    outputs = ("encoder_states", "encoder_attention_mask")
    text = Graph("text_encoder", TextEncoderGraph(network), asked, varying, outputs, limits)
    states, mask = text.answers(asked)
    written = torch.arange(WRITTEN).repeat(len(states), 1)
    written[:, 0] = network.text_model.config.decoder_start_token_id
    of_states = {0: "batch", 1: "states"}
    decoder = Graph(
        "decoder",
        AnswerDecoderGraph(network),
        {"encoder_states": states, "encoder_attention_mask": mask, "decoder_input_ids": written},
        {"encoder_states": of_states, "encoder_attention_mask": of_states, "decoder_input_ids": of_tokens},
        ("logits",),
        limits,
    )
    return [encoder, text, decoder]


def _settings(task: VisualQuestionAnswering, network: DeterministicVQA, tokenizer: Any) -> AnsweringSettings:
    is_generative = network.answer_head == "generative"
    config = network.text_model.config
    generation = None
    if is_generative:
        ends = network.text_model.generation_config.eos_token_id
        generation = GenerationRecord(
            vocabulary=network.text_model.get_output_embeddings().weight.shape[0],
            start=config.decoder_start_token_id,
            ends=[ends] if isinstance(ends, int) else ends,
            num_beams=task.num_beams,
            max_new_tokens=task.max_answer_tokens,
        )
    return AnsweringSettings(
        answers=None if is_generative else network.answers,
        generation=generation,
        padding=tokenizer.pad_token_id,
        max_question_tokens=min(tokenizer.model_max_length, usable_positions(config) or MOST),
        cleans_up=_cleans_up(tokenizer),
    )


def _cleans_up(tokenizer: Any) -> bool:
    """Return whether transformers takes spaces before punctuation out of a text; it leaves those of BPE alone."""
    is_bpe = tokenizer.is_fast and type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    return bool(tokenizer.clean_up_tokenization_spaces) and not is_bpe


def _check_tokens(tokens: GraphTokens, tokenizer: Any, questions: Iterable[str]) -> None:
    """Check that questions have the same tokens without transformers.

    Raises:
        UserError: If one has others.
    """
    tokens.add(questions)
    for question in questions:
        theirs = tokenizer(question, truncation=True, max_length=tokens.settings.max_question_tokens)["input_ids"]
        if tokens.ids[question] != theirs:
            raise UserError(
                f"tokenizer: {question!r} has other tokens by tokenizer.json than by transformers; this network can "
                "only be merged"
            )


class AnswerFigures:
    """The figures of a network and of its graphs, the network's first.

    Args:
        task: Tells how answers are written and compared.
        network: The merged network.
    """

    def __init__(self, task: VisualQuestionAnswering, network: DeterministicVQA) -> None:
        self.task, self.network = task, network
        self.expected: list[str] = []

    def __call__(self, model: Any, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `val_accuracy`, as validation does, and the share of answers that are the network's own."""
        metric, found = VQAMetric(self.network.answers), list[str]()
        for batch in batches:
            # of a batch that was cut off, the questions about images that are left
            kept = (batch["image_index"] < len(batch["image"])).nonzero()[:, 0]
            answers = model.answer(
                batch["image"],
                batch["input_ids"][kept],
                batch["attention_mask"][kept],
                batch["image_index"][kept],
                num_beams=self.task.num_beams,
                max_new_tokens=self.task.max_answer_tokens,
            )
            references, answer, kinds, names = (
                [batch[name][index] for index in kept.tolist()]
                for name in ("answers", "answer", "question_type", "name")
            )
            metric.update(answers, references, answer, kinds, names, self.task.language)
            found += answers
        if model is self.network:
            self.expected = found
        same = [ours == theirs for ours, theirs in zip(found, self.expected, strict=True)]
        return {"val_accuracy": metric.compute()["accuracy"], "same_answers": sum(same) / len(same)}
