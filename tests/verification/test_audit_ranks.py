"""The audit on two processes: with DDP it gives one report on each, and sharded models are refused on each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from eomt.errors import UserError
from eomt.verification.training import TrainingAudit
from tests.ranks import on_two_ranks
from tests.verification.test_false_alarms import BATCH, Net, adamw, audited, square

pytestmark = pytest.mark.slow


def audit_ddp(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for fault in (False, True):
        model = Net()
        if fault:
            model.body[2].lora_B.weight.requires_grad_(False)
        wrapped = DistributedDataParallel(model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        # each has a batch of its own
        batch = BATCH + rank
        optimizer = adamw(wrapped)
        report = audited(wrapped, optimizers=[optimizer])
        found[f"report, {fault}"] = report.to_dict()
        found[f"same, {fault}"] = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        watch = TrainingAudit(wrapped, batch, [optimizer], square, allow_random_base=True, every=2, warn=True)
        watch.start()
        for _ in range(4):
            optimizer.zero_grad()
            square(wrapped, batch).backward()
            optimizer.step()
            watch.step()
        watch.end()
        found[f"watch, {fault}"] = {name: each.to_dict() for name, each in watch.reports.items()}
        found[f"weights, {fault}"] = model.state_dict()
    return found


def test_a_model_in_ddp_is_audited_alike_on_each_rank(tmp_path: Path) -> None:
    one, two = on_two_ranks(audit_ddp, tmp_path, is_fresh=True)
    assert one["report, False"] == two["report, False"]
    assert one["report, False"]["sound"]
    assert [each["kind"] for each in two["report, True"]["findings"]] == ["frozen"]
    assert one["report, True"] == two["report, True"]
    for found in (one, two):
        assert found["same, False"]
        assert found["same, True"]
        assert all(report["sound"] for report in found["watch, False"].values())
    assert one["watch, False"].keys() == {"start", "step 2", "step 4", "end"}
    # gradients were still averaged after the audits
    assert all(torch.equal(value, two["weights, False"][name]) for name, value in one["weights, False"].items())


def audit_sharded(rank: int) -> str:
    model: nn.Module = Net()
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    try:
        audited(model)
    except UserError as error:
        return str(error)
    return "audited"


def test_a_sharded_model_is_refused_on_each_rank(tmp_path: Path) -> None:
    messages = on_two_ranks(audit_sharded, tmp_path, is_fresh=True)
    assert messages[0] == messages[1]
    assert messages[0].startswith("audit: the model is sharded (")
    assert "\n" not in messages[0]
