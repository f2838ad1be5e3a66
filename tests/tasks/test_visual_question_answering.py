"""Visual question answering: losses that weigh as told, features computed once, figures on grey images beside them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import Precision

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.tasks import VisualQuestionAnswering
from eomt.verification.merging import merged_copy, write_merged
from tests.tiny_vqa import ANSWERS, SPECIAL, TYPES, WORDS, enlarge_weights, make_questions, make_tokenizer, make_vqa

HEADS = ["generative", "classification"]
LORA: dict[str, Any] = {"rank": 2, "lora_dropout": 0.0, "freeze_base_model": True}
LORA |= {"target_modules": ["query", "key", "value"], "exclude_modules": ["text_model", "fusion"]}


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    return str(make_tokenizer(tmp_path / "tokenizer"))


def make_task(
    tokenizer: str,
    answer_head: str = "generative",
    lora: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None,
    **arguments: Any,
) -> VisualQuestionAnswering:
    torch.manual_seed(0)
    made = make_vqa(answer_head=answer_head, tokenizer=tokenizer, **(network or {}))
    enlarge_weights(made)
    return VisualQuestionAnswering(made, None if lora is None else LoRAConfig(**lora), **arguments)


def make_batch(batch: int = 4, images: int = 2) -> dict[str, Any]:
    """Questions of which every two are about one image; their answers are the vocabulary's, one after the other."""
    found = make_questions(batch, images=images)
    index = torch.arange(batch) % len(ANSWERS)
    answers = [ANSWERS[number] for number in index.tolist()]
    labels = torch.tensor([[0, len(SPECIAL) + WORDS.index(answer), 2] for answer in answers])
    return {
        "image": found["images"],
        "image_name": [f"{number}.png" for number in range(images)],
        "image_index": torch.arange(batch) * images // batch,
        "input_ids": found["input_ids"],
        "attention_mask": found["attention_mask"],
        "labels": labels,
        "answer_index": index,
        "name": [f"q{number}" for number in range(batch)],
        "question": ["?"] * batch,
        "answer": answers,
        "answers": [[answer] for answer in answers],
        "question_type": [TYPES[number % 2] for number in range(batch)],
    }


def logged(task: VisualQuestionAnswering, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What the end of a validation logs."""
    found: dict[str, float] = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: found.__setitem__(name, float(value)))
    task.on_validation_epoch_end()
    return found


@pytest.mark.parametrize("head", HEADS)
def test_every_adapter_acts_and_learns(head: str, tokenizer: str) -> None:
    task = make_task(tokenizer, head, LORA)
    assert task.audit(make_batch()).faults == ()


@pytest.mark.parametrize("head", HEADS)
def test_full_fine_tuning_reaches_every_parameter(head: str, tokenizer: str) -> None:
    assert make_task(tokenizer, head).audit(make_batch()).faults == ()


@pytest.mark.parametrize("head", HEADS)
def test_the_synthetic_batch_trains(head: str, tokenizer: str) -> None:
    task = make_task(tokenizer, head, LORA)
    assert task.audit(task.synthetic_batch(3)).faults == ()


@pytest.mark.parametrize("head", HEADS)
def test_weights_weigh_in_training_and_equal_ones_change_nothing(head: str, tokenizer: str) -> None:
    task, batch = make_task(tokenizer, head, LORA).eval(), make_batch()
    plain = task.losses(batch)[0]["loss"]
    equal = task.losses(batch | {"weight": torch.ones(4)})[0]["loss"]
    assert torch.equal(plain, equal)
    # the mean of these is 1 too, and the loss is another
    weighed = task.losses(batch | {"weight": torch.tensor([0.1, 0.1, 0.1, 3.7])})[0]["loss"]
    alone = [task.losses({**batch, "weight": 4.0 * torch.eye(4)[index]})[0]["loss"] for index in range(4)]
    torch.testing.assert_close(weighed, sum(w / 4 * one for w, one in zip((0.1, 0.1, 0.1, 3.7), alone, strict=True)))
    assert abs(float((weighed - plain).detach())) > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_of_validation_is_never_weighted(head: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for extra in ({}, {"weight": torch.tensor([0.0, 0.0, 0.0, 4.0])}):
        task = make_task(tokenizer, head, LORA, label_smoothing=0.2).eval()
        task.validation_step(make_batch() | extra, 0)
        found.append(logged(task, monkeypatch)["val_loss"])
    assert found[0] == found[1]
    # nor smoothed
    plain = make_task(tokenizer, head, LORA).eval()
    assert found[0] == pytest.approx(plain.losses(make_batch())[0]["loss"].item(), rel=1e-5)


def test_a_frozen_tower_has_no_dropout_in_training(tokenizer: str) -> None:
    task = make_task(tokenizer, "classification", LORA | {"enabled": False})
    assert task.network.training
    assert not task.network.vision_encoder.training
    assert not task.network.text_model.training
    adapted = make_task(tokenizer, "classification", LORA)
    assert adapted.network.vision_encoder.training


@pytest.mark.parametrize("head", HEADS)
def test_the_blank_figure_does_not_depend_on_the_images(
    head: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, logits = [], []
    for flipped in (False, True):
        task, batch = make_task(tokenizer, head, LORA), make_batch()
        if flipped:
            batch["image"] = 255 - batch["image"]
        output = task.validation_step(batch, 0)
        answers.append(output)
        logits.append(task.outputs(task.network, batch))
        figures = logged(task, monkeypatch)
        right = [a == b for a, b in zip(output["blank"], batch["answer"], strict=True)]
        assert figures["val_blank_accuracy"] == pytest.approx(sum(right) / 4)
    assert answers[0]["blank"] == answers[1]["blank"]
    assert float((logits[0] - logits[1]).detach().abs().max()) > 0.01


def test_padding_and_unknown_answers_do_not_count_in_the_loss(tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (2, 4):
        task, batch = make_task(tokenizer, "classification", LORA), make_batch()
        batch["name"][2:] = [""] * 2 if size == 4 else batch["name"][2:]
        if size == 2:
            # wrong in evaluation, and without a loss
            batch["answer_index"][2:] = -1
        task.validation_step(batch, 0)
        found.append(logged(task, monkeypatch))
    assert found[0]["val_loss"] == pytest.approx(found[1]["val_loss"])


def test_the_type_head_adds_its_loss_and_needs_a_weight(tokenizer: str) -> None:
    task = make_task(tokenizer, network={"question_types": TYPES}, type_head_weight=0.5, lora=LORA).eval()
    losses = task.losses(make_batch())[0]
    torch.testing.assert_close(losses["loss"], losses["answer"] + 0.5 * losses["type"])
    assert task.audit(make_batch()).faults == ()
    for weight, network in ((0.0, {"question_types": TYPES}), (0.5, {})):
        with pytest.raises(UserError, match="type_head_weight"):
            make_task(tokenizer, network=network, type_head_weight=weight)


@pytest.mark.parametrize("head", HEADS)
def test_merged_answers_are_the_adapted_ones(head: str, tokenizer: str, tmp_path: Path) -> None:
    task = make_task(tokenizer, head, LORA).eval()
    for name, parameter in task.network.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1)
    merged, _, relative = merged_copy(task.network, make_batch(), task.outputs)
    assert relative < 1e-5
    (tmp_path / "merged").mkdir()
    for _ in range(2):
        # the second replaces the first
        write_merged(merged, tmp_path / "merged" / "folder", "{}\n")
    again = VisualQuestionAnswering(make_vqa(answer_head=head, pretrained=str(tmp_path / "merged" / "folder"))).eval()
    torch.testing.assert_close(
        again.outputs(again.network, make_batch()), task.outputs(task.network, make_batch()), rtol=1e-4, atol=1e-5
    )


def test_a_checkpoint_of_another_vocabulary_is_refused(tokenizer: str) -> None:
    task = make_task(tokenizer, "classification", LORA)
    checkpoint: dict[str, Any] = {}
    task._trainer = SimpleNamespace()  # type: ignore[assignment]
    task.on_save_checkpoint(checkpoint)
    other = make_task(tokenizer, "classification", LORA, network={"answers": [*ANSWERS[1:], ANSWERS[0]]})
    with pytest.raises(UserError, match="trained on 4 answers"):
        other.on_load_checkpoint(checkpoint)
    task.on_load_checkpoint(checkpoint)


@pytest.mark.parametrize("head", HEADS)
def test_answers_that_training_has_not_are_told_of_either_head(
    head: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tokenizer, head, LORA, network={"answers": ANSWERS[1:]})
    batch = make_batch()
    batch["answer_index"] = batch["answer_index"] - 1
    task.validation_step(batch, 0)
    figures = logged(task, monkeypatch)
    assert figures["val_oov_rate"] == 1 / 4
    # a decoder may write any answer
    assert figures.get("val_ceiling") == (3 / 4 if head == "classification" else None)


def test_a_decoder_keeps_the_vocabulary_that_it_was_trained_on(tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint: dict[str, Any] = {}
    task = make_task(tokenizer, "generative", LORA, network={"answers": ANSWERS[1:]})
    task._trainer = SimpleNamespace()  # type: ignore[assignment]
    task.on_save_checkpoint(checkpoint)
    other = make_task(tokenizer, "generative", LORA, network={"answers": ANSWERS})
    other.on_load_checkpoint(checkpoint)
    other.network.load_state_dict(task.network.state_dict())
    other._trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=None, precision_plugin=Precision(), num_devices=1
    )
    other.setup("validate")
    other.validation_step(make_batch(), 0)
    assert logged(other, monkeypatch)["val_oov_rate"] == 1 / 4
    other.on_load_checkpoint(checkpoint | {"answers": None})
    assert other.network.answers == ANSWERS[1:]


@pytest.mark.parametrize(
    ("field", "value"), [("num_beams", 0), ("max_answer_tokens", 0), ("type_head_weight", -1.0), ("feature_cache", -1)]
)
def test_values_that_cannot_be_are_refused(field: str, value: float, tokenizer: str) -> None:
    with pytest.raises(UserError, match=field):
        make_task(tokenizer, **{field: value})
