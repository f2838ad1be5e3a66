"""The audit in transformers' Trainer: its own loss, its precision, and that it leaves no trace in the training."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.verification import AuditError

pytest.importorskip("peft")
from peft import PeftModel
from transformers import Trainer, TrainingArguments, ViTModel

from eomt.verification.transformers import AuditCallback
from tests.verification.hugging_face import VIT, adapted, images, llama, texts, vit
from tests.verification.test_training_audit import Rows


def trained(
    model: nn.Module,
    batch: dict[str, Tensor],
    folder: Path,
    callback: AuditCallback | None,
    kind: type[Trainer] = Trainer,
    **settings: Any,
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder), report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
        **{"max_steps": 4, "per_device_train_batch_size": 3, "learning_rate": 0.02, "save_steps": 2, **settings},
    )  # fmt: skip
    callbacks = [] if callback is None else [callback]
    trainer = kind(model=model, args=arguments, train_dataset=Rows(batch), callbacks=callbacks)
    trainer.train()
    return trainer


def fresh(folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(vit(), folder)


def test_a_model_under_autocast_is_compared_in_the_precision_of_the_one_that_was_read_back(tmp_path: Path) -> None:
    model = adapted(llama())
    callback = AuditCallback(allow_random_base=True, reopen=lambda folder: PeftModel.from_pretrained(llama(), folder))
    trained(model, texts(), tmp_path, callback, bf16=True, learning_rate=0.5)
    assert callback.reports["saved"].findings == ()
    # the autocast is back
    assert "_original_forward" in vars(model)
    assert vars(model)["forward"] != vars(model)["_original_forward"]


class Detached(Trainer):
    """Trains the head alone: the features that its loss is of have no graph."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        inner = model.base_model.model
        features = inner.vit(pixel_values=inputs["pixel_values"]).last_hidden_state[:, 0].detach()
        return F.cross_entropy(inner.classifier(features), inputs["labels"])


def test_the_loss_that_is_audited_is_the_trainer_s_own(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"lora_B of .*q_proj' gets no gradient in training"):
        trained(adapted(vit()), images(), tmp_path, AuditCallback(allow_random_base=True), Detached)
    # one that is given goes before it
    callback = AuditCallback(allow_random_base=True, every=0, loss=lambda model, batch: model(**batch).loss, warn=True)
    trained(adapted(vit()), images(), tmp_path, callback, Detached)
    assert callback.reports["start"].is_sound


class Pairs(Trainer):
    """A loss of two views, which the model itself does not take, with figures and numbers of its own."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.figures: dict[str, Any] = {"train": defaultdict(list)}
        self.calls = 0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        one, two = (model(pixel_values=inputs.pop(name)).pooler_output for name in ("first", "second"))
        loss = F.cross_entropy(one @ two.T, torch.arange(len(one)))
        self.calls += 1
        self.figures["train"]["loss"].append(loss.item())
        self.state.num_input_tokens_seen += len(one)
        return loss


def pairs() -> dict[str, Tensor]:
    pixels = images()["pixel_values"]
    return {"first": pixels, "second": pixels.flip(3), "labels": torch.zeros(3)}


def backbone() -> nn.Module:
    torch.manual_seed(0)
    return adapted(ViTModel(VIT), target_modules=["q_proj", "v_proj"])


def test_a_batch_that_the_model_itself_does_not_take_is_audited_by_the_trainer_s_loss(tmp_path: Path) -> None:
    callback = AuditCallback(allow_random_base=True, every=2)
    trainer = trained(backbone(), pairs(), tmp_path, callback, Pairs, save_strategy="no")
    assert isinstance(trainer, Pairs)
    assert [report.findings for report in callback.reports.values()] == [()] * 4, callback.reports
    assert callback._audit is not None
    assert len(callback._audit.effects) == 2
    # what the trainer counts and logs knows nothing of the audit
    assert trainer.calls == len(trainer.figures["train"]["loss"]) == 4
    assert trainer.state.num_input_tokens_seen == 12


def test_label_smoothing_is_in_the_loss_that_is_audited(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watched(Trainer):
        def compute_loss(self, *args: Any, **settings: Any) -> Any:
            loss = super().compute_loss(*args, **settings)
            seen.append(float(loss.detach()))
            return loss

    callback = AuditCallback(allow_random_base=True, every=0)
    model = adapted(vit())
    expected = float(model(**images()).loss)
    trained(model, images(), tmp_path, callback, Watched, label_smoothing_factor=0.5, max_steps=1)
    assert callback.reports["start"].is_sound
    # the audit's two, at the start and at the end, beside the step's; the first with adapters that are hardly zero
    assert len(seen) == 3
    logits = adapted(vit())(**images()).logits
    smoothed = F.cross_entropy(logits, images()["labels"], label_smoothing=0.5)
    assert seen[0] == pytest.approx(float(smoothed), abs=0.02)
    assert abs(seen[0] - expected) > 1e-4


def test_a_loss_that_cannot_be_computed_of_the_batch_is_refused_in_a_line(tmp_path: Path) -> None:
    callback = AuditCallback(batch=images(), allow_random_base=True)
    with pytest.raises(
        UserError, match=r"^loss: Pairs\.compute_loss cannot take the batch \(KeyError: 'first'\); give"
    ):
        trained(backbone(), pairs(), tmp_path, callback, Pairs)


def test_reading_back_leaves_no_trace_in_the_training(tmp_path: Path) -> None:
    def reopen(folder: Path) -> nn.Module:
        random.random()
        np.random.rand()
        return fresh(folder)

    def weights(callback: AuditCallback | None) -> tuple[dict[str, Tensor], float, float]:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        model = adapted(vit(), lora_dropout=0.5)
        trained(model, images(), tmp_path, callback, learning_rate=0.05)
        return (
            {name: value for name, value in model.named_parameters() if value.requires_grad},
            random.random(),
            float(np.random.rand()),
        )

    plain, *numbers = weights(None)
    watched, *others = weights(AuditCallback(allow_random_base=True, every=2, reopen=reopen))
    assert others == numbers
    assert all(torch.equal(value, watched[name]) for name, value in plain.items())


@pytest.mark.parametrize(
    ("reopen", "message"),
    [
        (lambda folder: None, r"^reopen: returns None; return the fresh model"),
        (lambda folder: folder + "/best", r"^reopen: raises TypeError \(unsupported operand.*\); it gets the path"),
    ],
)
def test_a_reopen_that_fails_is_refused_in_a_line(tmp_path: Path, reopen: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trained(adapted(vit()), images(), tmp_path, AuditCallback(allow_random_base=True, reopen=reopen))


def test_a_reopen_that_gives_the_model_in_memory_is_refused(tmp_path: Path) -> None:
    model = adapted(vit())
    callback = AuditCallback(allow_random_base=True, reopen=lambda folder: model)
    with pytest.raises(UserError, match=r"^audit_reopened: reopened is the model itself"):
        trained(model, images(), tmp_path, callback)
