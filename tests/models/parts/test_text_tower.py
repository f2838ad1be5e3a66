"""Text towers: which models fit which head, what is read and what is left out, and a neutral generation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    BartForConditionalGeneration,
    BertModel,
    GenerationConfig,
    MBartForConditionalGeneration,
)

from eomt.errors import UserError
from eomt.models.parts.text_tower import decoder_of, encoder_of, load_tokenizer_for, make_text_tower
from eomt.verification.audit import loaded_names
from tests.gradients import KEY_BIAS
from tests.tiny_vqa import BART, BERT, MAX_LENGTH, enlarge_weights, make_tokenizer

IDS = torch.tensor([[0, 5, 9, 2], [0, 7, 2, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
VISION = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def write(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def bart() -> Any:
    torch.manual_seed(0)
    model = BartForConditionalGeneration(AutoConfig.for_model(**BART)).eval()
    enlarge_weights(model)
    return model


def states(model: Any) -> Tensor:
    return model(input_ids=IDS, attention_mask=MASK).last_hidden_state


def test_a_folder_of_bart_is_read_whole_for_the_generative_head(tmp_path: Path) -> None:
    model = bart()
    found: Any = make_text_tower(write(model, tmp_path / "bart"), True, "generative").eval()
    assert isinstance(found, BartForConditionalGeneration)
    assert decoder_of(found) is found.model.decoder
    torch.testing.assert_close(states(encoder_of(found)), states(model.model.encoder))
    ids = torch.tensor([[2, 0], [2, 0]])
    expected = model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=ids).logits
    torch.testing.assert_close(found(input_ids=IDS, attention_mask=MASK, decoder_input_ids=ids).logits, expected)
    assert loaded_names(found) == set(found.state_dict())


def test_mbart_is_taken_and_starts_where_its_config_says_or_from_the_end_token() -> None:
    fields = BART | {"model_type": "mbart"}
    model: Any = make_text_tower(fields, False, "generative")
    assert isinstance(model, MBartForConditionalGeneration)
    assert model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id == 2
    model = make_text_tower(fields | {"decoder_start_token_id": 5}, False, "generative")
    assert model.config.decoder_start_token_id == model.generation_config.decoder_start_token_id == 5


def test_how_a_folder_wants_to_generate_is_left_out(tmp_path: Path) -> None:
    model = bart()
    model.generation_config = GenerationConfig(
        min_length=10, no_repeat_ngram_size=3, forced_bos_token_id=0, num_beams=4, length_penalty=2.0,
        decoder_start_token_id=2, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    found: Any = make_text_tower(write(model, tmp_path / "bart"), True, "generative")
    settings = found.generation_config
    assert [settings.min_length, settings.no_repeat_ngram_size, settings.forced_bos_token_id] == [None] * 3
    assert [settings.num_beams, settings.length_penalty] == [None] * 2
    assert [settings.eos_token_id, settings.pad_token_id, settings.decoder_start_token_id] == [2, 1, 2]


def test_classification_takes_the_encoder_of_bart_alone(tmp_path: Path) -> None:
    model = bart()
    found = make_text_tower(write(model, tmp_path / "bart"), True, "classification").eval()
    assert encoder_of(found) is found
    assert decoder_of(found) is None
    assert {name for name, _ in found.named_parameters()} == {
        name.removeprefix("model.encoder.") for name in model.state_dict() if name.startswith("model.encoder.")
    }
    torch.testing.assert_close(states(found), states(model.model.encoder))
    assert loaded_names(found) == set(found.state_dict())


def test_classification_takes_bert_without_its_pooler(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertModel(AutoConfig.for_model(**BERT)).eval()
    found = make_text_tower(write(model, tmp_path / "bert"), True, "classification").eval()
    assert not any("pooler" in name for name, _ in found.named_parameters())
    torch.testing.assert_close(states(found), states(model))
    assert loaded_names(found) == set(found.state_dict())


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "xlm-roberta", "mpnet", "t5", "bart", "mbart"])
def test_every_parameter_of_an_encoder_gets_a_gradient(family: str) -> None:
    fields = BART if family.endswith("bart") else BERT
    if family == "distilbert":
        fields = {"dim": 32, "hidden_dim": 32, "n_heads": 2, "n_layers": 1, "vocab_size": 19}
    if family == "t5":
        fields = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 19}
    model = make_text_tower(fields | {"model_type": family}, False, "classification")
    enlarge_weights(model)
    states(model).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or KEY_BIAS.search(name), name
    assert model.config.hidden_size == 32
    assert model.config.num_attention_heads == 2


def test_models_that_do_not_fit_the_head_are_refused_by_name(tmp_path: Path) -> None:
    bert = write(BertModel(AutoConfig.for_model(**BERT)), tmp_path / "bert")
    sources: list[tuple[Any, Any, str]] = [
        (
            bert,
            "generative",
            "model_type 'bert' has no decoder; the generative head takes bart or mbart, answer_head: cl",
        ),
        ({"model_type": "t5"}, "generative", "a new t5: model_type 't5' is another encoder-decoder"),
        (VISION | {"model_type": "dinov2"}, "classification", "model_type 'dinov2' is no text encoder"),
        ({"model_type": "nonsense"}, "classification", "text_model: a new nonsense: its configuration cannot be read"),
        (BART | {"encoder_attention_heads": 5}, "generative", "text_model: bart: cannot be built"),
        ("/not/there", "generative", "text_model: '/not/there' is no folder"),
    ]
    for source, head, message in sources:
        with pytest.raises(UserError, match=message) as error:
            make_text_tower(source, True, head)
        assert "\n" not in str(error.value)


def test_missing_tensors_are_refused_by_name_and_a_missing_bias_of_zeros_is_not(tmp_path: Path) -> None:
    folder = write(bart(), tmp_path / "bart")
    file = tmp_path / "bart" / "model.safetensors"
    state = load_file(file)
    save_file({name: value for name, value in state.items() if name != "final_logits_bias"}, file, {"format": "pt"})
    model: Any = make_text_tower(folder, True, "generative")
    assert not model.final_logits_bias.any()
    name = "model.encoder.layers.0.fc1.weight"
    save_file({key: value for key, value in state.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"text_model: {folder}: lacks '{name}'"):
        make_text_tower(folder, True, "generative")
    with pytest.raises(UserError, match=r"lacks 'encoder\.layers\.0\.fc1\.weight'"):
        make_text_tower(folder, True, "classification")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = str(make_tokenizer(tmp_path / "tokenizer"))
    model = make_text_tower(BART, False, "generative")
    assert load_tokenizer_for(model, folder, given_apart=True).model_max_length == MAX_LENGTH
    short = make_text_tower(BART | {"max_position_embeddings": 9}, False, "generative")
    assert load_tokenizer_for(short, folder, given_apart=True).model_max_length == 9
    small = make_text_tower(BART | {"vocab_size": 10}, False, "generative")
    with pytest.raises(UserError, match="has 19 tokens, the text model 10"):
        load_tokenizer_for(small, folder, given_apart=True)
    other = make_text_tower(BART | {"eos_token_id": 3}, False, "generative")
    with pytest.raises(UserError, match="eos_token_id is 2, that of the text model 3"):
        load_tokenizer_for(other, folder, given_apart=True)
