"""The switch `memory`: the same answers and gradients, whatever is kept."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.models.memory import SETTINGS, memory_of, set_memory, settings_of
from eomt.tasks import SemanticSegmentation
from tests.cli_runs import make_workspace
from tests.tiny import make_eomt, make_image

LORA = LoRAConfig(target_modules=["attention", "mlp"], trainable_modules=["class_head"], freeze_base_model=True)


def test_answers_and_gradients_are_those_of_the_floor() -> None:
    network = SemanticSegmentation(make_eomt(), LORA).network.double().train()
    found = []
    for setting in (*SETTINGS, "floor"):
        set_memory(network, setting)
        assert memory_of(network) == setting
        network.zero_grad()
        torch.manual_seed(1)
        predictions = network(make_image())
        sum(
            prediction.mask_logits.pow(3).mean() + prediction.class_logits.pow(3).mean() for prediction in predictions
        ).backward()
        gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
        found.append([*(prediction.mask_logits for prediction in predictions), *gradients.values()])
    for other in found[1:]:
        for value, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_a_network_without_a_switch_has_two_settings() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    assert settings_of(network) == ("floor", "less")
    with pytest.raises(UserError, match="memory: least, but no part of Sequential can be checkpointed; give less"):
        set_memory(network, "least")


def test_a_switch_of_the_network_s_own_counts_and_contradicts_another_setting() -> None:
    network = make_eomt()
    network.encoder.checkpointing = True
    assert memory_of(network) == "least"
    with pytest.raises(UserError, match="memory: less, but checkpointing of the network is true"):
        SemanticSegmentation(network, LORA, memory="less")


def test_a_run_with_less_trains_and_merges_as_one_at_the_floor(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    runs = [workspace.fit(setting, "--model.memory", setting) for setting in SETTINGS]
    states = [torch.load(run / "final_lora_step8.ckpt", weights_only=True)["state_dict"] for run in runs]
    merged = [load_file(next(run.glob("best_merged_*")) / "model.safetensors") for run in runs]
    for found in (states, merged):
        for other in found[1:]:
            assert other.keys() == found[0].keys()
            for name, value in other.items():
                torch.testing.assert_close(value, found[0][name], rtol=1e-3, atol=1e-4)
