"""Folders of the question answering network: the same bit by bit, refused if they do not fit, merged ones."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers
from eomt.lora.config import LoRAConfig
from eomt.models.vqa import DeterministicVQA
from eomt.verification.audit import loaded_names
from eomt.verification.merging import merged_copy, write_merged
from tests.tiny_vqa import (
    ANSWERS,
    MAX_LENGTH,
    TYPES,
    enlarge_weights,
    make_questions,
    make_tokenizer,
    make_vqa,
    write_models,
)

heads = pytest.mark.parametrize("head", ["generative", "classification"])
LABELS = torch.tensor([[0, 12, 2, -100], [0, 13, 14, 2], [0, 17, 2, -100]])


def answers_of(network: DeterministicVQA, **questions: Any) -> Tensor:
    """What either head says, in full."""
    with torch.no_grad():
        return network(**questions, labels=LABELS if network.answer_head == "generative" else None).logits


def write(network: DeterministicVQA, folder: Path) -> str:
    folder.mkdir()
    network.write(folder)
    return str(folder)


@heads
@pytest.mark.parametrize("answers", [["đỏ", "màu xanh", "có"], ANSWERS], ids=["vietnamese", "english"])
def test_a_folder_gives_the_network_back_bit_by_bit(head: str, answers: list[str], tmp_path: Path) -> None:
    vision, text = write_models(tmp_path)
    (tmp_path / "vision" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3]}))
    network = make_vqa(
        vision_model=vision, text_model=text, pretrained=True, answer_head=head, answers=answers,
        question_types=TYPES, img_size=(35, 28), fusion_layers=3,
    )  # fmt: skip
    enlarge_weights(network)
    folder = write(network, tmp_path / "written")
    assert {path.name for path in Path(folder).iterdir()} == {"config.json", "model.safetensors", "tokenizer"}
    # the folder is all that is needed
    for path in (vision, text):
        Path(path).rename(path + "_away")
    found = DeterministicVQA(pretrained=folder)
    assert found.state_dict().keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert (found.answer_head, found.answers, found.question_types) == (head, answers, TYPES)
    assert (found.img_size, len(found.fusion.layers), found.base) == ((35, 28), 3, folder)
    assert torch.equal(found.vision_encoder.normalize.mean, network.vision_encoder.normalize.mean)
    for tower in ("vision_encoder.model", "text_model"):
        stored, given = (model.get_submodule(tower).config.to_dict() for model in (found, network))
        # nobody else has that path
        assert stored == given | {"_name_or_path": ""}
    if head == "generative":
        # 15.1: what says how answers are written is no part of transformers' configuration
        assert found.text_model.generation_config.to_dict() == network.text_model.generation_config.to_dict()
    assert found.tokenizer.get_vocab() == network.tokenizer.get_vocab()
    assert found.tokenizer.model_max_length == MAX_LENGTH
    assert {name for name, _ in found.named_parameters()} <= loaded_names(found)
    questions = make_questions()
    assert found.answer(**questions) == network.answer(**questions)
    torch.testing.assert_close(answers_of(found.eval(), **questions), answers_of(network.eval(), **questions))


def test_weights_that_are_tied_are_written_once_and_tied_again(tmp_path: Path) -> None:
    folder = write(make_vqa(), tmp_path / "written")
    names = [name for name in load_file(Path(folder) / "model.safetensors") if "embed_tokens" in name or "lm_h" in name]
    assert not names
    found = DeterministicVQA(pretrained=folder).text_model
    assert found.lm_head.weight is found.model.shared.weight is found.model.encoder.embed_tokens.weight


def test_a_folder_of_another_vocabulary_head_or_size_is_refused(tmp_path: Path) -> None:
    network = make_vqa(answer_head="classification", question_types=TYPES)
    folder = write(network, tmp_path / "written")
    assert DeterministicVQA(pretrained=folder, answers=ANSWERS, question_types=TYPES).answers == ANSWERS
    for arguments, message in (
        ({"answers": ANSWERS[::-1]}, "was trained on another answer vocabulary than the data's"),
        (
            {"question_types": ["count"]},
            r"question_types: \['count'\], but the network in .* has \['colour', 'shape'\]",
        ),
        ({"img_size": (42, 42)}, r"img_size: \(42, 42\), but the network in .* has \(28, 28\)"),
        ({"fusion_layers": 4}, "fusion_layers: 4, but the network in .* has 2"),
    ):
        with pytest.raises(UserError, match=message):
            DeterministicVQA(pretrained=folder, **arguments)
    generative = write(make_vqa(answers=ANSWERS), tmp_path / "generative")
    with pytest.raises(UserError, match=r"answer_head: classification, but the network in .* has generative"):
        DeterministicVQA(pretrained=generative, answer_head="classification", answers=ANSWERS)
    # a decoder may be taught the answers of other data
    found = DeterministicVQA(pretrained=generative, answers=["no"])
    found.check_vocabulary()
    assert found.answers == ["no"]


def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write(make_vqa(), tmp_path / "written")
    config, weights = tmp_path / "written" / "config.json", tmp_path / "written" / "model.safetensors"
    text, state = config.read_text(), load_file(weights)
    name = "fusion.norm_vision.weight"

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message) as error:
            DeterministicVQA(pretrained=folder)
        assert "\n" not in str(error.value)

    for content in ("{", "[]", json.dumps(json.loads(text) | {"more": 1}), "{}"):
        config.write_text(content)
        refused("config.json: (cannot be read|it is|more is 1, but|is not of eomt.models.DeterministicVQA)")
    config.write_text(text)
    save_file({key: value for key, value in state.items() if key != name}, weights)
    refused(f"lacks '{name}'")
    save_file(state | {"other": torch.zeros(1)}, weights)
    refused("holds 'other', which the network of its config.json has not")
    save_file(state | {name: torch.zeros(3)}, weights)
    refused(rf"'{name}' has shape \[3\], the network of its config.json has \[32\]")


def test_the_vocabulary_travels_with_the_weights() -> None:
    network = make_vqa(answer_head="classification")
    network.check_vocabulary()
    other = make_vqa(answer_head="classification", answers=["red", "blue", "yes", "circle"])
    other.load_state_dict(network.state_dict())
    with pytest.raises(UserError, match="answers: the weights were trained on another vocabulary than these 4 answers"):
        other.check_vocabulary()
    plain = make_vqa()
    plain.check_vocabulary()
    assert not plain.answers_hash.any()
    # a decoder writes any answer
    taught = make_vqa(answers=ANSWERS[1:])
    taught.load_state_dict(make_vqa(answers=ANSWERS).state_dict())
    taught.check_vocabulary()
    # weights that know of no vocabulary belong to any
    known = make_vqa(answers=ANSWERS)
    known.load_state_dict(plain.state_dict())
    known.check_vocabulary()


def logits_of(network: torch.nn.Module, batch: dict[str, Any]) -> Tensor:
    return network(**batch, labels=LABELS).logits


@heads
def test_a_merged_network_answers_alike_and_opens_from_its_folder(head: str, tmp_path: Path) -> None:
    tokenizer = str(make_tokenizer(tmp_path / "tokenizer"))
    network = make_vqa(
        answer_head=head,
        tokenizer=tokenizer,
        lora_config=LoRAConfig(target_modules=["query", "key", "value"], exclude_modules=["text_model", "fusion"]),
    )
    plain = answers_of(copy.deepcopy(network).eval(), **make_questions())
    for layer in lora_layers(network).values():
        torch.nn.init.normal_(layer.lora_b, std=0.5)
    with pytest.raises(UserError, match="network: holds 6 adapters"):
        network.write(tmp_path)
    merged, _, relative = merged_copy(network, make_questions(), logits_of)
    assert relative < 1e-4
    write_merged(merged, tmp_path / "merged", "model: {}\n")
    found = DeterministicVQA(pretrained=str(tmp_path / "merged")).eval()
    answers = answers_of(found, **make_questions())
    torch.testing.assert_close(answers, answers_of(network.eval(), **make_questions()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answers, plain, atol=1e-4)
