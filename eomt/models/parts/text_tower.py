"""Text models of Hugging Face: an encoder of questions, and where answers are generated its decoder."""

import inspect
from typing import Any

from transformers import (
    BartForConditionalGeneration,
    GenerationConfig,
    MBartForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from eomt.errors import UserError
from eomt.models.weights.transformers import Source, build_model, describe_source, load_model, read_model_config
from eomt.models.weights.vqa import AnswerHead
from eomt.utils.loaded import loaded_in, mark_loaded
from eomt.utils.tokenizer import load_tokenizer, usable_positions

GENERATIVE: dict[str, type[PreTrainedModel]] = {
    "bart": BartForConditionalGeneration,
    "mbart": MBartForConditionalGeneration,
}


def make_text_tower(source: Source, pretrained: bool, answer_head: AnswerHead) -> PreTrainedModel:
    """Return an encoder and decoder for the generative head, an encoder alone for classification.

    Args:
        source: A repository on the hub, a folder, or a configuration.
        pretrained: Read the weights too; a configuration has none and stays random.
        answer_head: Generative or classification.

    Raises:
        UserError: For a model that does not fit the head, or cannot be read.
    """
    config: Any = read_model_config(source, "text_model")
    if answer_head == "generative":
        return _make_generative(source, config, pretrained)
    model_class: Any = MODEL_MAPPING.get(type(config), None)
    is_model = isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)
    if not is_model or model_class.main_input_name != "input_ids":
        name = describe_source(source)
        raise UserError(f"text_model: {name}: model_type {config.model_type!r} is no text encoder; bert is one")
    # a pooler would be trained in vain: questions are pooled here, after they have seen the image
    pooler = "add_pooling_layer" in inspect.signature(model_class).parameters
    model = _make(model_class, source, config, pretrained, **({"add_pooling_layer": False} if pooler else {}))
    if not config.is_encoder_decoder:
        return model
    encoder = model.get_encoder()
    mark_loaded(encoder, {name.removeprefix("encoder.") for name in loaded_in(model) if name.startswith("encoder.")})
    return encoder


def encoder_of(text_model: PreTrainedModel) -> PreTrainedModel:
    """Return what encodes questions: `text_model` itself, or its encoder."""
    return text_model.get_encoder() if decoder_of(text_model) is not None else text_model


def decoder_of(text_model: PreTrainedModel) -> PreTrainedModel | None:
    """Return what generates answers; None in an encoder alone."""
    return text_model.get_decoder() if text_model.can_generate() else None


def load_tokenizer_for(text_model: PreTrainedModel, source: str, given_apart: bool) -> PreTrainedTokenizerBase:
    """Return a tokenizer that was checked against the text model, whose length it takes.

    Args:
        text_model: The text model.
        source: A folder or a repository on the hub.
        given_apart: Whether it is not the text model's own.

    Raises:
        UserError: If it cannot be read, or its tokens are not those of the text model.
    """
    tokenizer, config = load_tokenizer(source), text_model.config
    if given_apart and len(tokenizer) > config.vocab_size:
        raise UserError(
            f"tokenizer: {source} has {len(tokenizer)} tokens, the text model {config.vocab_size}; "
            "give the tokenizer of that model"
        )
    tokens = (
        ("pad_token_id", tokenizer.pad_token_id, config.pad_token_id),
        ("eos_token_id", tokenizer.eos_token_id, config.eos_token_id),
    )
    for name, found, needed in tokens if decoder_of(text_model) is not None else ():
        if found != needed:
            raise UserError(
                f"tokenizer: {source}: {name} is {found}, that of the text model {needed}; "
                "give the tokenizer of that model"
            )
    positions = usable_positions(config)
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def _make_generative(source: Source, config: PreTrainedConfig, pretrained: bool) -> PreTrainedModel:
    """Return an encoder and decoder that generates without a folder's habits."""
    if config.model_type not in GENERATIVE:
        has = "has no decoder" if not config.is_encoder_decoder else "is another encoder-decoder"
        raise UserError(
            f"text_model: {describe_source(source)}: model_type {config.model_type!r} {has}; the generative head takes "
            f"{' or '.join(GENERATIVE)}, answer_head: classification any encoder"
        )
    model: Any = _make(GENERATIVE[config.model_type], source, config, pretrained)
    start = config.decoder_start_token_id
    if start is None:
        # mBART names none: it starts from the last token of the sequence before
        model.config.decoder_start_token_id = start = config.eos_token_id
    # what a folder brings with it (least lengths, penalties, tokens that are forced) is for long summaries
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model


def _make(
    model_class: type[PreTrainedModel], source: Source, config: PreTrainedConfig, pretrained: bool, **arguments: Any
) -> PreTrainedModel:
    """Return a model with its weights, or random ones."""
    if pretrained and isinstance(source, str):
        # zero where a checkpoint leaves it out
        return load_model(model_class, source, config, "text_model", ("final_logits_bias",), **arguments)
    return build_model(model_class, config, "text_model", **arguments)
