"""Faults that happened in the wild: each is built, and the run must stop with the right name."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import eomt
from callbacks import AdapterAudit, RunSummary
from callbacks.run.adapter_audit import LEAST_STEPS
from datamodules import ImageMaskFolder
from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import LoRALinear, lora_layers
from eomt.models import EoMT
from eomt.tasks import SemanticSegmentation
from eomt.utils.loaded import mark_loaded
from tests.cli_runs import write_images
from tests.tiny import make_eomt

BLOCK = "encoder.backbone.blocks.3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_images(folder / "train", 2, 0)
    write_images(folder / "val", 1, 1)
    return folder


@pytest.fixture
def data(folder: Path) -> ImageMaskFolder:
    return ImageMaskFolder(str(folder), batch_size=2, crop_size=(32, 48), num_workers=0)


def make_task(
    training: dict | None = None, loaded: bool = True, network: EoMT | None = None, **lora: Any
) -> SemanticSegmentation:
    torch.manual_seed(0)
    network = network or make_eomt(num_classes=3)
    if loaded:
        mark_loaded(network, network.state_dict())
    config = LoRAConfig(rank=2, **{"target_modules": ["attention", "mlp"], "freeze_base_model": True} | lora)
    return SemanticSegmentation(network, config, num_points=64, **(training or {}))


def audit(
    task: SemanticSegmentation,
    data: ImageMaskFolder,
    folder: Path,
    clip: float | None = None,
    steps: int = 1,
    others: tuple[Callback, ...] = (),
    **arguments: Any,
) -> AdapterAudit:
    callback = AdapterAudit(**arguments)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[callback, *others],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=clip,
        default_root_dir=folder,
    )
    trainer.fit(task, data)
    return callback


def test_a_sound_task_passes(data: ImageMaskFolder, tmp_path: Path) -> None:
    callback = audit(make_task(trainable_modules=["q", "class_head"]), data, tmp_path)
    assert callback.verdict == "all 24 adapters act and learn; 2 modules trained in full learn (q, class_head)"


class Spoiler(Callback):
    """Sets every B to zero after the last step, as a run that forgot its weights would."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == LEAST_STEPS:
            for layer in lora_layers(pl_module.network).values():
                nn.init.zeros_(layer.lora_b)


def test_the_closing_audit_asks_whether_the_trained_network_learned(data: ImageMaskFolder, tmp_path: Path) -> None:
    assert audit(make_task(), data, tmp_path, steps=LEAST_STEPS).verdict == "all 24 adapters act and learn"
    verdict = audit(make_task(), data, tmp_path / "again", steps=LEAST_STEPS, others=(Spoiler(),)).verdict
    assert verdict.startswith("at the start all 24 adapters act and learn; at the end: lora_b of 'encoder.backbone")
    assert "is still zero after the training" in verdict


def test_the_summary_waits_for_the_closing_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(RunSummary, "_finish", lambda *_: order.append("summary"))
    monkeypatch.setattr(AdapterAudit, "close", lambda *_: order.append("audit"))
    summary = RunSummary()
    trainer: Any = SimpleNamespace(callbacks=[summary, AdapterAudit()], is_global_zero=True, should_stop=False)
    summary.on_train_end(trainer, make_task())
    assert order == ["audit", "summary"]


def ignore_adapter(task: SemanticSegmentation) -> None:
    layer = task.network.get_submodule(f"{BLOCK}.attn.qkv")
    assert isinstance(layer, LoRALinear)
    layer.forward = lambda x: nn.functional.linear(x, layer.weight, layer.bias)  # type: ignore[method-assign]


def no_grad_encoder(task: SemanticSegmentation) -> None:
    task.network.encoder.run_block = torch.no_grad()(task.network.encoder.run_block)  # type: ignore[method-assign]


def freeze_again(task: SemanticSegmentation) -> None:
    task.network.encoder.requires_grad_(False)


def unfreeze_a_base_weight(task: SemanticSegmentation) -> None:
    task.network.get_parameter("encoder.backbone.norm.weight").requires_grad_(True)


class FastPathMLP(nn.Module):
    """Reads weights instead of calling its layers in evaluation, as torch's fused encoder layer does."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.fc2(nn.functional.gelu(self.fc1(x)))
        hidden = nn.functional.gelu(nn.functional.linear(x, self.fc1.weight, self.fc1.bias))
        return nn.functional.linear(hidden, self.fc2.weight, self.fc2.bias)


class IdleCallMLP(FastPathMLP):
    """Calls its layers, whose answer it throws away, `when` it likes to."""

    def __init__(self, mlp: nn.Module, when: Callable[[nn.Module], bool]) -> None:
        super().__init__(mlp)
        self.when = when

    def forward(self, x: Tensor) -> Tensor:
        if not self.when(self):
            return self.fc2(nn.functional.gelu(self.fc1(x)))
        self.fc2(self.fc1(x))
        hidden = nn.functional.gelu(nn.functional.linear(x, self.fc1.weight, self.fc1.bias))
        return nn.functional.linear(hidden, self.fc2.weight, self.fc2.bias)


def idle_calls_in_evaluation(task: SemanticSegmentation) -> None:
    block = task.network.encoder.backbone.blocks[3]
    block.mlp = IdleCallMLP(block.mlp, lambda module: not module.training)


def idle_calls_without_gradients(task: SemanticSegmentation) -> None:
    block = task.network.encoder.backbone.blocks[3]
    block.mlp = IdleCallMLP(block.mlp, lambda module: not torch.is_grad_enabled())


def detached_a(task: SemanticSegmentation) -> None:
    layer = task.network.get_submodule(f"{BLOCK}.attn.qkv")
    assert isinstance(layer, LoRALinear)

    def forward(x: Tensor) -> Tensor:
        layer._adapter_runs()
        h = nn.functional.linear(x, layer.lora_a.detach()) * layer.scaling
        return nn.functional.linear(x, layer.weight, layer.bias) + nn.functional.linear(h, layer.lora_b)

    layer.forward = forward  # type: ignore[method-assign]


def half_detached_head(task: SemanticSegmentation) -> None:
    task.network.mask_head[2].register_forward_hook(lambda module, inputs, output: output.detach())


def fast_path(task: SemanticSegmentation) -> None:
    block = task.network.encoder.backbone.blocks[3]
    block.mlp = FastPathMLP(block.mlp)


def reentrant_checkpointing(task: SemanticSegmentation) -> None:
    encoder = task.network.encoder

    def run_block(index: int, tokens: Tensor, attn_mask: Tensor | None = None, rope: None = None) -> Tensor:
        return checkpoint(encoder.blocks[index], tokens, attn_mask, use_reentrant=True)

    encoder.run_block = run_block  # type: ignore[method-assign]


def forget_in_optimizer(task: SemanticSegmentation) -> None:
    groups = task.parameter_groups()
    groups[0]["params"] = groups[0]["params"][:-1]
    task.parameter_groups = lambda: groups  # type: ignore[method-assign]


def detached_head(task: SemanticSegmentation) -> None:
    task.network.mask_head.register_forward_hook(lambda module, inputs, output: output.detach())


@pytest.mark.parametrize(
    ("fault", "lora", "message"),
    [
        (ignore_adapter, {}, rf"'{BLOCK}\.attn\.qkv' is never called in training"),
        (no_grad_encoder, {}, "does not depend on anything trainable"),
        (
            no_grad_encoder,
            {"trainable_modules": ["mask_head"]},
            r"lora_b of '.*blocks\.0\.attn\.qkv' gets no gradient in training",
        ),
        (freeze_again, {}, r"blocks\.0\.attn\.qkv\.lora_a' is frozen, though lora_config trains it"),
        (unfreeze_a_base_weight, {}, r"norm\.weight' is trained, not by lora_config"),
        (fast_path, {}, rf"'{BLOCK}\.mlp\.fc1' is never called in evaluation"),
        (idle_calls_in_evaluation, {}, rf"lora_b of '{BLOCK}\.mlp\.fc1' gets no gradient in evaluation"),
        (idle_calls_without_gradients, {}, "answers in evaluation differ"),
        (detached_a, {}, rf"lora_a of '{BLOCK}\.attn\.qkv' gets no gradient in training"),
        (half_detached_head, {"trainable_modules": ["mask_head"]}, r"'mask_head\.0\.weight' is trained but gets no"),
        (reentrant_checkpointing, {}, "use_reentrant=True"),
        (
            reentrant_checkpointing,
            {"trainable_modules": ["mask_head"]},
            r"lora_b of '.*blocks\.0\.attn\.qkv' gets no gradient in training",
        ),
        (forget_in_optimizer, {}, r"blocks\.5\.mlp\.fc2\.lora_b' is trainable but in no optimizer"),
        (detached_head, {"trainable_modules": ["mask_head"]}, "'mask_head', trained in full, gets no gradient"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_fault_stops_the_run_with_its_name(
    data: ImageMaskFolder, tmp_path: Path, fault: Callable[[SemanticSegmentation], None], lora: dict, message: str
) -> None:
    task = make_task(**lora)
    fault(task)
    with pytest.raises(UserError, match=message):
        audit(task, data, tmp_path)


@pytest.mark.parametrize(
    ("training", "lora", "clip", "where"),
    [
        ({"lr": 0.0}, {}, None, "lora_a"),
        ({"head_lr": 0.0}, {"trainable_modules": ["class_head"]}, None, r"class_head\.\w+"),
        ({}, {"lora_alpha": 1e-8}, None, "lora_a"),
        ({}, {"loraplus_lr_ratio": 1e-12}, None, "lora_b"),
        ({}, {}, 1e-12, "lora_a"),
    ],
)
@pytest.mark.parametrize("backend", ["native", "peft"])
def test_a_step_that_moves_nothing_stops_the_run(
    data: ImageMaskFolder, tmp_path: Path, training: dict, lora: dict, clip: float | None, where: str, backend: str
) -> None:
    """15 C: gradients are there, and yet nothing would be learnt."""
    where = where.replace("lora_a", "lora_[aA]").replace("lora_b", "lora_[bB]")
    with pytest.raises(UserError, match=rf"'[^']*{where}[^']*' moves by \S+ of its size in a step"):
        audit(make_task(training, backend=backend, **lora), data, tmp_path, clip)


@pytest.mark.parametrize("training", [{"lr": 1e-5, "warmup": 0.5}, {"lr": 1e-6}, {"lr": 1e-3, "layer_decay": 0.5}])
def test_small_rates_and_a_warm_up_pass(data: ImageMaskFolder, tmp_path: Path, training: dict) -> None:
    audit(make_task(training, use_rslora=True), data, tmp_path, clip=0.01)


def test_training_in_16_bits_stops_the_run(data: ImageMaskFolder, tmp_path: Path) -> None:
    """15 C: half of the steps would round to nothing."""
    task = make_task()
    task.network.bfloat16()
    with pytest.raises(UserError, match=r"is trained in torch\.bfloat16.*bf16-mixed"):
        audit(task, data, tmp_path)


def test_the_step_of_the_audit_leaves_the_optimizer_as_it_was() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["initial_lr"] = 0.2
    for state in (0, 2):
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        assert len(before[1]["state"]) == state
        report = eomt.audit(model, torch.rand(4, 3), lambda model, x: model(x).square().sum(), optimizers=[optimizer])
        assert report.is_sound, report
        torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
        model(torch.rand(4, 3)).sum().backward()
        optimizer.step()


def test_full_fine_tuning_with_an_encoder_that_gets_no_gradient_stops_the_run(
    data: ImageMaskFolder, tmp_path: Path
) -> None:
    task = SemanticSegmentation(make_eomt(num_classes=3), None, num_points=64)
    assert audit(task, data, tmp_path).verdict == "every parameter is trained"
    no_grad_encoder(task)
    with pytest.raises(UserError, match=r"'encoder\.backbone\.cls_token' is trained but gets no gradient"):
        audit(task, data, tmp_path / "again")


@pytest.mark.parametrize("masked_attention", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("targets", [["all-linear"], ["query", "value", "upscale"]])
def test_sound_networks_pass(data: ImageMaskFolder, masked_attention: bool, freeze: bool, targets: list[str]) -> None:
    network = make_eomt(num_classes=3, masked_attn_enabled=masked_attention)
    task = make_task(network=network, target_modules=targets, freeze_base_model=freeze, use_rslora=True)
    assert task.audit(next(iter(data.train_dataloader()))).faults == ()


@pytest.mark.parametrize("autocast", [True, False])
def test_a_sound_network_passes_in_bf16(data: ImageMaskFolder, autocast: bool) -> None:
    task = make_task(trainable_modules=["q", "class_head"])
    task = task if autocast else task.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert task.audit(next(iter(data.train_dataloader()))).faults == ()


def test_the_audit_runs_the_network_three_times(data: ImageMaskFolder) -> None:
    task = make_task()
    passes: list[bool] = []
    task.network.class_head.register_forward_pre_hook(lambda module, inputs: passes.append(torch.is_grad_enabled()))
    embeddings: list[int] = []
    task.network.encoder.backbone.patch_embed.register_forward_hook(lambda *_: embeddings.append(1))
    assert task.audit(next(iter(data.train_dataloader()))).faults == ()
    assert len(embeddings) == 3
    assert False in passes


def test_heads_frozen_at_random_stop_the_run(data: ImageMaskFolder, tmp_path: Path) -> None:
    network = make_eomt(num_classes=3)
    mark_loaded(network.encoder, network.encoder.state_dict())
    with pytest.raises(UserError, match=r"'q\.weight' is frozen but was never loaded"):
        audit(make_task(loaded=False, network=network), data, tmp_path)


def test_a_random_base_stops_the_run_unless_it_is_wanted(data: ImageMaskFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"never loaded .*allow_random_base"):
        audit(make_task(loaded=False), data, tmp_path)
    audit(make_task(loaded=False), data, tmp_path, allow_random_base=True)


def test_the_audit_leaves_everything_as_it_was(data: ImageMaskFolder) -> None:
    task = make_task(trainable_modules=["class_head"])
    task.network.mask_head.eval()
    layer = next(iter(lora_layers(task.network).values()))
    layer.lora_b.grad = torch.ones_like(layer.lora_b)
    before = copy.deepcopy(task.state_dict() | dict(task.network.named_buffers()))
    weights = {name: value.clone() for name, value in task.network.state_dict().items()}
    modes = {name: module.training for name, module in task.named_modules()}
    random = torch.get_rng_state()
    batch = next(iter(data.train_dataloader()))
    assert task.audit(batch).faults == ()
    assert torch.equal(torch.get_rng_state(), random)
    assert modes == {name: module.training for name, module in task.named_modules()}
    assert all(torch.equal(value, task.network.state_dict()[name]) for name, value in weights.items())
    assert all(torch.equal(value, dict(task.state_dict())[name]) for name, value in before.items() if "network" in name)
    assert torch.equal(layer.lora_b.grad, torch.ones_like(layer.lora_b))
    assert all(p.grad is None for p in task.parameters() if p is not layer.lora_b)
