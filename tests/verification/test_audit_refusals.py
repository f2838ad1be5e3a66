"""What the audit refuses in a line, and what it audits though it is wrapped or quantized."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.verification import audit
from eomt.verification.training import TrainingAudit

pytest.importorskip("peft")
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import ViTForImageClassification

from tests.verification.hugging_face import adapted, images, optimizer_of, saved_vit, vit
from tests.verification.test_any_training import BATCH, Net, audited, net, square


def test_a_batch_that_does_not_fit_or_has_no_loss_is_refused() -> None:
    model = adapted(vit())
    with pytest.raises(UserError, match=r"^loss: PeftModel cannot"):
        audit(model, {"pixel_values": torch.zeros(2, 3, 7, 7), "labels": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(UserError, match=r"^loss: PeftModel answers \w+ without a loss; put labels into the batch"):
        audit(model, {"pixel_values": images()["pixel_values"]}, allow_random_base=True)
    with pytest.raises(UserError, match=r"batch is empty"):
        audit(model, {})


def test_wrong_stages_and_expectations_are_refused() -> None:
    with pytest.raises(UserError, match=r"^stage: 'middle' "):
        audited(net(), stage="middle")
    with pytest.raises(UserError, match=r"^expect: "):
        audited(net(), expect=[3])


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = Net()
    with pytest.raises(UserError, match=r"has no values here \(meta device"):
        audited(model)


def test_wrapped_models_are_audited_inside(tmp_path: Any) -> None:
    model = net()
    assert audited(nn.DataParallel(model)).adapters == ("base_model.model.body",)
    assert audited(torch.compile(model, backend="eager")).adapters == ("base_model.model.body",)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = audited(nn.parallel.DistributedDataParallel(model))
        assert found.is_sound
        assert found.adapters == ("base_model.model.body",)
    finally:
        torch.distributed.destroy_process_group()


def test_sharded_models_and_compiled_graphs_are_refused() -> None:
    class FullyShardedDataParallel(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    with pytest.raises(UserError, match=r"^audit: the model is sharded \(FullyShardedDataParallel"):
        audited(FullyShardedDataParallel(net()))
    with pytest.raises(UserError, match=r"sharded \(FullyShardedDataParallel at '0'\)"):
        audited(nn.Sequential(FullyShardedDataParallel(net())))
    # DeepSpeed's third stage leaves an empty tensor
    parted = Net()
    parted.body.weight.ds_id = 0  # type: ignore[attr-defined]
    parted.body.weight.data = torch.empty(0)
    with pytest.raises(UserError, match=r"sharded \('body\.weight' is DeepSpeed's, of stage 3\)"):
        audited(parted)
    with pytest.raises(UserError, match="a compiled graph; give the module"):
        audited(torch.jit.trace(Net(), BATCH))


class Quantized(nn.Module):
    """A layer whose weight is kept as integers, as bitsandbytes and GPTQ do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randint(0, 255, (8, 8), dtype=torch.uint8), requires_grad=False)
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight.to(x.dtype) / 100 - 1).T + x @ self.lora_A.T @ self.lora_B.T


def test_a_quantized_base_is_audited() -> None:
    model = nn.Sequential(nn.Linear(6, 8).requires_grad_(False), Quantized())
    report = audited(model)
    assert report.is_sound
    assert report.adapters == ("1",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 2.5}, r"^every: 2\.5 \(float\); must be a whole number of steps"),
        ({"every": -1}, r"^every: -1 \(int\); must be"),
        ({"every": True}, r"^every: True \(bool\); must be"),
        ({"floor": float("nan")}, r"^floor: nan \(float\); must be a share"),
        ({"floor": -1.0}, r"^floor: -1\.0 \(float\); must be"),
    ],
    ids=str,
)
def test_settings_of_a_training_s_audit_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingAudit(net(), BATCH, loss=square, **settings)


def test_an_audit_that_was_not_started_has_nothing_to_compare_with() -> None:
    watch = TrainingAudit(net(), BATCH, loss=square, allow_random_base=True)
    for call in (watch.step, watch.end):
        with pytest.raises(UserError, match=rf"^{call.__name__}: the audit was not started; call start\(\) before"):
            call()
    watch.start()
    watch.step()


def test_one_optimizer_needs_no_list_and_a_schedule_is_none() -> None:
    model = net()
    optimizer = optimizer_of(model)
    assert audited(model, optimizers=optimizer).findings == audited(model, optimizers=[optimizer]).findings == ()
    assert TrainingAudit(model, BATCH, optimizer, square).optimizers == [optimizer]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    for given in ([schedule], [optimizer, schedule]):
        with pytest.raises(UserError, match=r"^optimizers: holds a StepLR; give the optimizer that it schedules$"):
            audited(model, optimizers=given)
    with pytest.raises(UserError, match=r"^audit: optimizers is "):
        audited(model, optimizers=schedule)


class Picky(nn.Module):
    """Refuses its input in words of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.body, self.error = nn.Linear(6, 3), error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("give ids\nor embeddings"), r"\(ValueError: give ids\)"),
        (KeyError("labels"), r"\(KeyError: 'labels'\)"),
        (TypeError("no keyword y"), r"\(TypeError: no keyword y\)"),
        (AssertionError("224 pixels"), r"\(AssertionError: 224 pixels\)"),
        (RuntimeError("size of tensor a (9)"), r"\(size of tensor a \(9\)\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_model_s_own_words_for_a_batch_that_does_not_fit_are_kept(error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=rf"^loss: Picky cannot answer the batch {message}; give a batch that fits"):
        audit(Picky(error), BATCH, allow_random_base=True)


def test_a_parameter_of_its_own_that_is_not_saved_is_named_itself() -> None:
    class Gated(Net):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.gate

    model = get_peft_model(Gated(), LoraConfig(r=2, target_modules=["body"], modules_to_save=["head"]))
    model.base_model.model.gate.requires_grad_(True)
    assert [(finding.kind, finding.where) for finding in audited(model).findings] == [
        ("not_saved", "base_model.model.gate")
    ]


def test_what_peft_s_layers_hold_of_their_own_is_no_base(tmp_path: Any) -> None:
    saved_vit(tmp_path)
    base = ViTForImageClassification.from_pretrained(tmp_path, num_labels=3)
    config = AdaLoraConfig(total_step=9, target_modules=["q_proj"], modules_to_save=["classifier"])
    report = audit(get_peft_model(base, config), images())
    assert "base_never_loaded" not in [finding.kind for finding in report.findings]
