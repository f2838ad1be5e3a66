"""The network of visual question answering: both heads, what it depends on, beams, files, vocabularies."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig, adaptation
from eomt.models.vqa import DeterministicVQA
from eomt.verification.audit import loaded_names
from tests.gradients import KEY_BIAS
from tests.tiny_vqa import (
    ANSWERS,
    BART,
    BERT,
    MAX_LENGTH,
    NUM_PATCHES,
    TYPES,
    WORDS,
    enlarge_weights,
    make_questions,
    make_tokenizer,
    make_vqa,
    write_models,
)

HEADS = ["generative", "classification"]
heads = pytest.mark.parametrize("head", HEADS)
LABELS = torch.tensor([[0, 12, 2, -100], [0, 13, 14, 2], [17, 2, -100, -100]])
BASE_SIZED = {"model_type": "dinov2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
QKV: dict[str, Any] = {
    "target_modules": ["query", "key", "value"], "exclude_modules": ["text_model", "fusion"], "freeze_base_model": True
}  # fmt: skip


def large(network: DeterministicVQA) -> DeterministicVQA:
    """Return the network with large weights, in double precision and evaluation."""
    enlarge_weights(network)
    return network.double().eval()


def answers_of(network: DeterministicVQA, **questions: Any) -> Tensor:
    """What either head says, in full."""
    with torch.no_grad():
        return network(**questions, labels=LABELS if network.answer_head == "generative" else None).logits


# -- the guide -------------------------------------------------------------------------------------------------------


def test_the_guides_snippet_runs_on_a_network_of_the_base_size(capsys: pytest.CaptureFixture) -> None:
    with no_init_weights():
        model = DeterministicVQA(
            BASE_SIZED, BART | {"vocab_size": 1000}, pretrained=False, use_vision_lora=True, vision_lora_r=8
        )
    # memory that nothing was written to may hold anything
    enlarge_weights(model)
    model.freeze_pretrained(unfreeze_encoder_layers=0, unfreeze_decoder=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if "lora_" in name}
    assert sum(model.get_parameter(name).numel() for name in adapters) == 442_368
    images, ids = torch.randn(2, 3, 224, 224), torch.randint(0, 1000, (2, 20))
    with torch.no_grad():
        output = model(images, ids, torch.ones(2, 20))
    assert output.logits.shape == (2, 1, 1000)
    assert output.logits.isfinite().all()
    assert "[LoRA] Manual injection: 442,368 trainable params across 12 layers" in capsys.readouterr().out


def test_the_guides_arguments_are_short_for_a_config() -> None:
    """15.29: `DeterministicVQA(use_vision_lora=True, vision_lora_r=8)` was an unexpected keyword."""
    network = make_vqa(use_vision_lora=True, vision_lora_r=2, vision_lora_alpha=6, vision_lora_dropout=0.0)
    done = adaptation(network)
    assert done is not None
    assert done.config == LoRAConfig(**QKV | {"rank": 2, "lora_alpha": 6, "lora_dropout": 0.0})
    assert adaptation(make_vqa(vision_lora_r=8, vision_lora_alpha=16, vision_lora_dropout=0.1)) is None
    with pytest.raises(UserError, match="use_vision_lora, lora_config: both are given"):
        make_vqa(use_vision_lora=True, lora_config=LoRAConfig(**QKV))


@pytest.mark.parametrize(("name", "value"), [("r", 4), ("alpha", 8), ("dropout", 0.0)])
@pytest.mark.parametrize("lora_config", [None, LoRAConfig(**QKV)])
def test_the_guides_settings_are_not_ignored(name: str, value: float, lora_config: LoRAConfig | None) -> None:
    """15.29: `DeterministicVQA(vision_lora_r=4)` had no adapters, without a word."""
    with pytest.raises(UserError, match=f"vision_lora_{name}: {value}, but use_vision_lora is false; set it to true"):
        make_vqa(lora_config=lora_config, **{f"vision_lora_{name}": value})


# -- what comes out, and what it depends on --------------------------------------------------------------------------


@pytest.mark.parametrize("text_model", [BART, BERT], ids=["bart", "bert"])
def test_classification_says_one_logit_an_answer_and_a_type(text_model: dict) -> None:
    network = make_vqa(answer_head="classification", text_model=text_model, question_types=TYPES)
    output = network(**make_questions())
    assert output.logits.shape == (3, len(ANSWERS))
    assert output.type_logits.shape == (3, len(TYPES))
    assert make_vqa(answer_head="classification").forward(**make_questions()).type_logits is None


def test_the_generative_head_says_a_vocabulary_a_token_of_the_answer() -> None:
    network = make_vqa(question_types=TYPES)
    output = network(**make_questions(), labels=LABELS)
    assert output.logits.shape == (3, 4, BART["vocab_size"])
    assert output.type_logits.shape == (3, len(TYPES))
    large(network)
    first = network(**make_questions())
    assert first.logits.shape == (3, 1, BART["vocab_size"])
    torch.testing.assert_close(first.logits, network(**make_questions(), labels=LABELS).logits[:, :1])


def test_the_decoder_sees_projected_vision_and_fused_states_and_the_answer_so_far() -> None:
    network, questions = large(make_vqa()), make_questions()
    questions["attention_mask"][1, 4:] = 0
    found = network(**questions, labels=LABELS).logits
    vision = network.vision_projection(network.vision_encoder(questions["images"]))
    bart = network.text_model
    states = bart.model.encoder(questions["input_ids"], attention_mask=questions["attention_mask"]).last_hidden_state
    fused = network.fusion(states, vision, torch.arange(3))
    for index in range(3):
        length = int(questions["attention_mask"][index].sum())
        encoded = torch.cat((vision[index], fused[index, :length]))[None]
        answer = LABELS[index][LABELS[index] >= 0]
        seen = torch.cat((torch.tensor([2]), answer[:-1]))[None]
        decoded = bart.model.decoder(input_ids=seen, encoder_hidden_states=encoded).last_hidden_state
        torch.testing.assert_close(found[index, : len(answer)], bart.lm_head(decoded)[0])


@heads
def test_the_answer_depends_on_the_image_and_on_the_question(head: str) -> None:
    network, questions = large(make_vqa(answer_head=head, question_types=TYPES)), make_questions()
    plain = answers_of(network, **questions)
    grey = questions | {"images": torch.full_like(questions["images"], 128)}
    other = questions | {"input_ids": questions["input_ids"].flip(0)}
    for changed in (grey, other):
        difference = (answers_of(network, **changed) - plain).abs().flatten(1).amax(1)
        assert difference[0] > 1e-2
        assert difference[2] > 1e-2


@heads
def test_floats_are_images_from_0_to_1_and_a_float_mask_is_a_mask(head: str) -> None:
    network, questions = large(make_vqa(answer_head=head)), make_questions()
    questions["attention_mask"][0, 3:] = 0
    plain = answers_of(network, **questions)
    changed = {"images": questions["images"] / 255, "attention_mask": questions["attention_mask"].float()}
    torch.testing.assert_close(answers_of(network, **(questions | changed)), plain)


@pytest.mark.parametrize(
    ("head", "text_model"),
    [("generative", BART), ("classification", BART), ("classification", BERT)],
    ids=["generative", "bart", "bert"],
)
def test_padding_of_a_question_changes_nothing(head: str, text_model: dict) -> None:
    network = large(make_vqa(answer_head=head, text_model=text_model, question_types=TYPES))
    questions = make_questions()
    lengths = [6, 3, 5]
    for index, length in enumerate(lengths):
        questions["input_ids"][index, length:] = 1
        questions["attention_mask"][index, length:] = 0
    together = network(**questions, labels=LABELS)
    for index, length in enumerate(lengths):
        alone = network(
            questions["images"][index][None], questions["input_ids"][index, :length][None], torch.ones(1, length),
            labels=LABELS[index][None],
        )  # fmt: skip
        torch.testing.assert_close(alone.logits[0], together.logits[index])
        torch.testing.assert_close(alone.type_logits[0], together.type_logits[index])


@heads
def test_an_image_is_encoded_once_for_all_its_questions(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, questions = large(make_vqa(answer_head=head)), make_questions(images=2)
    index = torch.tensor([1, 0, 1])
    repeated = questions | {"images": questions["images"][index]}
    expected = answers_of(network, **repeated)
    seen: list[int] = []
    network.vision_encoder.model.register_forward_hook(lambda module, given, answer: seen.append(len(given[0])))
    torch.testing.assert_close(answers_of(network, **questions, image_index=index), expected)
    assert seen == [2]
    tokens = network.encode_images(questions["images"])
    assert tokens.shape == (2, NUM_PATCHES, 32)
    cached = questions | {"images": None}
    torch.testing.assert_close(answers_of(network, **cached, image_index=index, vision_tokens=tokens), expected)
    assert seen == [2, 2]


def test_a_question_longer_than_the_text_model_can_take_is_refused() -> None:
    network = make_vqa()
    network(**make_questions(length=MAX_LENGTH))
    with pytest.raises(UserError, match=f"a question of {MAX_LENGTH + 1} tokens, the text model takes {MAX_LENGTH}"):
        network(**make_questions(length=MAX_LENGTH + 1))


# -- answers ---------------------------------------------------------------------------------------------------------


def score(network: DeterministicVQA, tokens: list[int], index: int) -> float:
    """Logarithm of the probability of an answer up to its end token, by teacher forcing."""
    answer = tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
    questions = {name: value[index][None] for name, value in make_questions(8).items()}
    with torch.no_grad():
        logits = network(**questions, labels=torch.tensor([answer])).logits
    return float(logits[0].log_softmax(-1)[range(len(answer)), answer].sum())


def test_beams_find_likelier_answers_than_taking_the_likeliest_token() -> None:
    network, questions = large(make_vqa()), make_questions(8)
    # answers of one length, as beam search divides by it
    network.text_model.generation_config.suppress_tokens = [1, 2]
    greedy = network.generate(**questions, max_new_tokens=4)
    beams = network.generate(**questions, max_new_tokens=4, num_beams=6)
    assert [len(tokens) for tokens in greedy + beams] == [4] * 16
    gains = [score(network, beams[i], i) - score(network, greedy[i], i) for i in range(8)]
    assert min(gains) > -1e-4
    assert max(gains) > 1e-2


def test_greedy_answers_take_the_likeliest_token_each_time() -> None:
    network, questions = large(make_vqa()), make_questions(8)
    tokens = torch.tensor(network.generate(**questions, max_new_tokens=5))
    assert tokens.shape[0] == 8
    likeliest = network(**questions, labels=tokens).logits.argmax(-1)
    for found, expected in zip(tokens.tolist(), likeliest.tolist(), strict=True):
        length = found.index(2) + 1 if 2 in found else len(found)
        assert found[:length] == expected[:length]


def test_answers_are_text_with_either_head(tmp_path: Path) -> None:
    tokenizer = str(make_tokenizer(tmp_path / "tokenizer"))
    network, questions = large(make_vqa(tokenizer=tokenizer)), make_questions(8)
    texts = network.train().answer(**questions, num_beams=2, max_new_tokens=3)
    assert network.training
    assert len(texts) == 8
    assert set(" ".join(texts).split()) <= set(WORDS)
    # dropout plays no part in it
    assert texts == network.answer(**questions, num_beams=2, max_new_tokens=3)
    chooser = large(make_vqa(answer_head="classification"))
    expected = [ANSWERS[i] for i in answers_of(chooser, **questions).argmax(1)]
    assert chooser.train().answer(**questions) == expected
    assert len(set(expected)) > 1
    with pytest.raises(UserError, match="tokenizer: null, and there is none beside text_model"):
        make_vqa().answer(**questions)


# -- weights ---------------------------------------------------------------------------------------------------------


@heads
def test_both_models_are_read_and_their_configurations_alone_without_weights(head: str, tmp_path: Path) -> None:
    vision, text = write_models(tmp_path)
    network = make_vqa(vision_model=vision, text_model=text, pretrained=True, answer_head=head)
    assert network.tokenizer_source == text
    assert network.tokenizer.model_max_length == MAX_LENGTH
    assert network.base == f"{vision} + {text}"
    models = {name for name, _ in network.named_parameters() if name.startswith(("vision_encoder.", "text_model."))}
    assert models <= loaded_names(network)
    assert not any(name.startswith(network.new_modules) for name in loaded_names(network))
    random = make_vqa(vision_model=vision, text_model=text, answer_head=head)
    assert random.base.endswith("(random)")
    assert not loaded_names(random)
    name = "vision_encoder.model.encoder.layer.0.mlp.fc1.weight"
    assert not torch.equal(random.get_parameter(name), network.get_parameter(name))


@heads
def test_every_parameter_is_used_and_trained(head: str) -> None:
    network = make_vqa(answer_head=head, question_types=TYPES)
    assert network.frozen_modules == ()
    enlarge_weights(network)
    output = network(**make_questions(), labels=LABELS)
    (output.logits.square().sum() + output.type_logits.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or KEY_BIAS.search(name), name


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = make_vqa(checkpointing=checkpointing, text_model=BART | {"dropout": 0.0})
        enlarge_weights(network)
        torch.manual_seed(1)
        network(**make_questions(), labels=LABELS).logits.square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
    with pytest.raises(UserError, match="checkpointing: MPNetModel cannot recompute"):
        make_vqa(answer_head="classification", text_model=BERT | {"model_type": "mpnet"}, checkpointing=True)


def test_depth_is_that_of_the_vision_encoders_blocks() -> None:
    network = make_vqa()
    assert network.depth_of("vision_encoder.model.embeddings.cls_token") == 0
    assert network.depth_of("vision_encoder.model.encoder.layer.1.mlp.fc1.weight") == 2
    assert network.depth_of("vision_encoder.model.layernorm.weight") == 2
    assert network.depth_of("text_model.model.shared.weight") is None
    assert network.depth_of("fusion.norm_vision.weight") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answer_head": "other"}, "answer_head: 'other'; must be generative or classification"),
        ({"answer_head": "classification", "answers": None}, "answers: None; classification needs at least one"),
        ({"question_types": []}, r"question_types: \[\]; must be at least one, or null"),
        ({"fusion_layers": 0}, "fusion_layers: 0; must be at least 1"),
        ({"img_size": (30, 28)}, "img_size: 30 x 28 pixels; both must be multiples of the patch size 7"),
        ({"pretrained": "/not/there"}, "pretrained: /not/there holds no config.json"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_vqa(**arguments)


@heads
def test_a_network_in_bf16_answers(head: str) -> None:
    network = make_vqa(answer_head=head, question_types=TYPES).bfloat16().eval()
    output = network(**make_questions(), labels=LABELS)
    assert output.logits.dtype == output.type_logits.dtype == torch.bfloat16
    assert len(network.generate(**make_questions(), max_new_tokens=3) if head == "generative" else "abc") == 3


def test_every_block_of_the_vision_encoder_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **arguments: function)
    network = make_vqa()
    names = set(network.state_dict())
    network.compile_blocks()
    assert all(block._compiled_call_impl is not None for block in network.vision_encoder.blocks)
    assert set(network.state_dict()) == names


def test_equal_questions_are_read_once_where_there_is_no_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    network, questions = make_vqa().eval(), make_questions(4)
    questions["input_ids"][2] = questions["input_ids"][0]
    questions["input_ids"][3] = questions["input_ids"][0]
    questions["attention_mask"][3, 4:] = 0
    encoder, sizes = network.text_model.model.encoder, []
    forward = encoder.forward

    def counted(input_ids: Tensor, **arguments: Any) -> Any:
        sizes.append(len(input_ids))
        return forward(input_ids=input_ids, **arguments)

    monkeypatch.setattr(encoder, "forward", counted)
    together = network(**questions).logits
    alone = [network(*(part[k : k + 1] for part in questions.values())).logits for k in range(4)]
    # the fourth is another one: it is shorter
    assert sizes == [3, 1, 1, 1, 1]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    network.train()
    network(**questions)
    assert sizes[-1] == 4
