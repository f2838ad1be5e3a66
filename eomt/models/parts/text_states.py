"""States of questions, and the inputs of the decoder that writes the answers."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from eomt.models.frozen_features import FeatureCache, Features, is_frozen, weights_of
from eomt.utils.labels import IGNORED_TOKEN
from eomt.utils.modes import evaluation_mode


def question_states(encoder: PreTrainedModel, input_ids: Tensor, mask: Tensor) -> Tensor:
    """Return the states of questions, (B, T, D).

    Templates repeat questions: without dropout, equal ones are encoded once. A graph that is exported encodes each, as
    how many differ is not known where it is traced.

    Args:
        encoder: Encoder of a text model.
        input_ids: Tokens of the questions, (B, T).
        mask: 1 where there is a token, (B, T) int64.
    """
    inverse = None
    if not encoder.training and not torch.compiler.is_exporting():
        pairs, inverse = torch.unique(torch.cat((input_ids, mask), dim=1), dim=0, return_inverse=True)
        input_ids, mask = pairs.chunk(2, dim=1)
    states = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    return states if inverse is None else states[inverse]


def kept_question_states(
    cache: FeatureCache | None, encoder: PreTrainedModel, input_ids: Tensor, mask: Tensor, training: bool
) -> Tensor:
    """Return the states of questions, (B, T, D); a frozen encoder computes them without a graph, and once if kept.

    Args:
        cache: Where they are kept; None keeps none.
        encoder: As in `question_states`.
        input_ids: As there.
        mask: As there.
        training: Whether a training step asks.
    """
    below = weights_of(encoder)
    if not is_frozen(below):
        return question_states(encoder, input_ids, mask)
    with torch.no_grad(), evaluation_mode(encoder):
        if cache is None or not cache.is_used(training):
            return question_states(encoder, input_ids, mask)
        return _kept_states(cache, encoder, input_ids, mask, below, training)


def _kept_states(
    cache: FeatureCache,
    encoder: PreTrainedModel,
    input_ids: Tensor,
    mask: Tensor,
    below: list[Tensor],
    training: bool,
) -> Tensor:
    # how many tokens other questions of a batch have must not matter
    lengths = [int(row.nonzero().max()) + 1 if row.any() else 0 for row in mask.cpu()]
    pairs = torch.stack((input_ids, mask), dim=1).cpu()
    questions = [pair[:, :length] for pair, length in zip(pairs, lengths, strict=True)]

    def compute(indices: list[int]) -> list[Features]:
        states = question_states(encoder, input_ids[indices], mask[indices])
        return [(row[: lengths[index]],) for row, index in zip(states, indices, strict=True)]

    rows = [states for (states,) in cache.features("text encoder", questions, encoder, below, compute, training)]
    padded = rows[0].new_zeros(*input_ids.shape, rows[0].shape[-1])
    for row, states in zip(padded, rows, strict=True):
        row[: len(states)] = states
    return padded


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (B, D) of the states (B, T, D) where the mask (B, T) is 1."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def encoder_arguments(vision: Tensor, states: Tensor, mask: Tensor, image_index: Tensor) -> dict[str, Any]:
    """Return encoder states [vision; question], (B, N + T, D), and their mask, as arguments of a text model.

    Args:
        vision: Projected tokens of I images, (I, N, D).
        states: Fused states of the questions, (B, T, D).
        mask: 1 where a question has a token, (B, T) int64.
        image_index: Image of each question, (B,).
    """
    seen = mask.new_ones(states.shape[0], vision.shape[1])
    encoded = torch.cat((vision[image_index], states), dim=1)
    return {
        "encoder_outputs": BaseModelOutput(last_hidden_state=encoded),
        "attention_mask": torch.cat((seen, mask), dim=1),
    }


def decoder_tokens(config: PreTrainedConfig, labels: Tensor | None, batch: int, device: torch.device) -> Tensor:
    """Return the input of the decoder, (B, L): its start token, then the answers without their last token.

    Generation starts in the same way.

    Args:
        config: Configuration of the text model.
        labels: Tokens of the answers, (B, L), -100 where there is none; None for the start token alone (L = 1).
        batch: Number of questions B.
        device: Device of the result.
    """
    start = torch.full((batch, 1), config.decoder_start_token_id, device=device)
    if labels is None:
        return start
    before = labels[:, :-1]
    return torch.cat((start, before.masked_fill(before == IGNORED_TOKEN, config.pad_token_id)), dim=1)
