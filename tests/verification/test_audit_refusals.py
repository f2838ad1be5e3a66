"""What the audit refuses in a line, and what it audits though it is wrapped or quantized."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.verification import audit

pytest.importorskip("peft")

from tests.verification.hugging_face import adapted, images, vit
from tests.verification.test_any_training import BATCH, Net, audited, net


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
