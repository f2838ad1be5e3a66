"""The audit in the loops of transformers, Lightning, Accelerate and one's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from eomt.errors import UserError
from eomt.verification import AuditError
from eomt.verification.lightning import AuditCallback as LightningAudit
from eomt.verification.training import TrainingAudit

pytest.importorskip("peft")
from peft import PeftModel
from transformers import Trainer as HuggingFaceTrainer
from transformers import TrainingArguments

from eomt.verification.transformers import AuditCallback
from tests.verification.hugging_face import adapted, images, llama, optimizer_of, texts, vit


def loop(
    model: nn.Module, batch: dict[str, Tensor], watch: TrainingAudit, optimizer: torch.optim.Optimizer, steps: int = 6
) -> None:
    watch.start()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        watch.step()
    watch.end()


def test_a_loop_of_ones_own_is_watched() -> None:
    model, batch = adapted(vit()), images()
    optimizer = optimizer_of(model, lr=0.01)
    watch = TrainingAudit(model, batch, [optimizer], allow_random_base=True, every=3)
    loop(model, batch, watch, optimizer)
    assert list(watch.reports) == ["start", "step 3", "step 6", "end"]
    assert all(report.is_sound for report in watch.reports.values())
    assert 0 < watch.effects[3] < watch.effects[6]


def test_an_adapter_that_does_not_move_is_named_while_it_trains() -> None:
    model, batch = adapted(vit()), images()
    optimizer = optimizer_of(model, lr=0.01)
    watch = TrainingAudit(model, batch, None, allow_random_base=True, every=3)
    model.base_model.model.vit.layers[1].attention.q_proj.lora_A.default.weight.requires_grad_(True)
    stuck = model.base_model.model.vit.layers[1].attention.q_proj
    optimizer.param_groups[0]["params"] = [
        p for p in optimizer.param_groups[0]["params"] if all(p is not own for own in stuck.parameters())
    ]
    with pytest.raises(AuditError, match=r"layers\.1\.attention\.q_proj' did not move in the last 3 steps"):
        loop(model, batch, watch, optimizer)


def test_adapters_without_effect_and_weights_that_are_not_finite_are_named() -> None:
    model, batch = adapted(vit()), images()
    optimizer = optimizer_of(model, lr=0.01)
    watch = TrainingAudit(model, batch, [optimizer], allow_random_base=True, every=2, floor=10.0, warn=True)
    loop(model, batch, watch, optimizer, steps=2)
    assert [finding.kind for finding in watch.reports["step 2"].findings] == ["no_effect"]
    model.base_model.model.vit.layers[0].attention.q_proj.lora_B.default.weight.data.fill_(float("nan"))
    watch.steps = 3
    assert {finding.kind for finding in watch._light().findings} >= {"weights_not_finite"}


def test_a_light_check_leaves_everything_as_it_was() -> None:
    model, batch = adapted(vit()), images()
    optimizer = optimizer_of(model, lr=0.01)
    watch = TrainingAudit(model, batch, [optimizer], allow_random_base=True, every=2)
    watch.start()
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
        state = torch.get_rng_state()
        watch.step()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(torch.equal(model.get_parameter(name).grad, value) for name, value in gradients.items())
        assert torch.equal(torch.get_rng_state(), state)
    assert watch.effects


class Rows(torch.utils.data.Dataset):
    """The samples of a batch, again and again."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 4 * len(self.batch["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[index % len(value)] for name, value in self.batch.items()}


def hugging_face(model: nn.Module, batch: dict[str, Tensor], folder: Path, callback: AuditCallback) -> None:
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=3, learning_rate=0.05, save_steps=6,
        report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = HuggingFaceTrainer(model=model, args=arguments, train_dataset=Rows(batch), callbacks=[callback])
    trainer.train()


def test_the_trainer_of_transformers_is_watched_and_what_it_saves_is_read_back(tmp_path: Path) -> None:
    callback = AuditCallback(
        allow_random_base=True, every=3, reopen=lambda folder: PeftModel.from_pretrained(vit(), folder)
    )
    hugging_face(adapted(vit()), images(), tmp_path, callback)
    assert list(callback.reports) == ["start", "step 3", "step 6", "saved", "end"]
    assert all(report.is_sound for report in callback.reports.values())


def test_a_head_that_is_not_saved_stops_the_trainer(tmp_path: Path) -> None:
    model = adapted(vit(), modules_to_save=None)
    model.base_model.model.classifier.requires_grad_(True)
    callback = AuditCallback(allow_random_base=True, reopen=lambda folder: PeftModel.from_pretrained(vit(), folder))
    with pytest.raises(AuditError, match=r"classifier\.\w+' was trained, and came back from the file with other"):
        hugging_face(model, images(), tmp_path, callback)


def test_a_fault_stops_the_trainer_of_transformers_before_its_first_step(tmp_path: Path) -> None:
    model = adapted(llama())
    model.base_model.model.model.layers[1].register_forward_hook(lambda module, inputs, output: output.detach())
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(AuditError, match="does not depend on anything trainable"):
        hugging_face(model, texts(), tmp_path, AuditCallback(allow_random_base=True))
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))


class Classifier(LightningModule):
    """A module of Lightning around a model of transformers."""

    def __init__(self, saves_all: bool = True) -> None:
        super().__init__()
        self.model, self.saves_all = adapted(vit()), saves_all

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.model(pixel_values=batch[0], labels=batch[1]).loss
        self.log("loss", loss)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if not self.saves_all:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name: value for name, value in state.items() if "lora_B" not in name}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self, lr=0.05)


def reopened(path: Path) -> Classifier:
    module = Classifier()
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"], strict=False)
    return module


def lightning(module: Classifier, callback: LightningAudit) -> None:
    batch = images()
    data = DataLoader(TensorDataset(batch["pixel_values"], batch["labels"]), batch_size=3, shuffle=True)
    trainer = Trainer(
        accelerator="cpu", max_steps=6, callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data)


def test_lightning_is_watched_and_its_checkpoint_is_read_back() -> None:
    callback = LightningAudit(allow_random_base=True, every=3, reopen=reopened)
    lightning(Classifier(), callback)
    assert list(callback.reports) == ["start", "step 3", "step 6", "end", "saved"]
    assert all(report.is_sound for report in callback.reports.values())
    with pytest.raises(AuditError, match="lora_B"):
        lightning(Classifier(saves_all=False), LightningAudit(allow_random_base=True, reopen=reopened))


def test_accelerate_is_watched() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    # as between two steps while gradients are accumulated, when its optimizer makes none
    accelerator.gradient_state._set_sync_gradients(False)
    model, batch = adapted(vit()), images()
    model, optimizer = accelerator.prepare(model, optimizer_of(model, lr=0.01))
    watch = TrainingAudit(model, batch, [optimizer], allow_random_base=True, every=2)
    watch.start()
    accelerator.gradient_state._set_sync_gradients(True)
    for _ in range(4):
        optimizer.zero_grad()
        accelerator.backward(model(**batch).loss)
        optimizer.step()
        watch.step()
    assert watch.end().is_sound
    assert list(watch.reports) == ["start", "step 2", "step 4", "end"]


def test_data_that_cannot_be_indexed_are_refused(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            yield from Rows(images())

    trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, callbacks=[LightningAudit()], barebones=False)
    with pytest.raises(UserError, match=r"batch: the training data cannot be read by index"):
        trainer.fit(Classifier(), DataLoader(Stream()))
