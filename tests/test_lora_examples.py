"""Each example shows what it says, on the network that it uses."""

import subprocess
import sys

import torch

from eomt import lora_examples
from eomt.lora.adapter_layer import adapter_parameters, lora_layers
from eomt.lora.apply import apply_lora


def test_the_dummy_config_trains_adapters_alone() -> None:
    network = apply_lora(lora_examples.make_network(), lora_examples.create_dummy_lora_config())
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == set(adapter_parameters(network))
    assert {path.split(".")[0] for path in lora_layers(network)} == {"encoder", "mask_head"}


def test_basic_usage_starts_as_the_base_and_counts_itself() -> None:
    result = lora_examples.example_basic_usage()
    plain = sum(parameter.numel() for parameter in lora_examples.make_network().parameters())
    assert result["difference"] < 1e-6
    assert result["total_parameters"] == plain + result["lora_parameters"]
    assert result["trainable_parameters"] == result["lora_parameters"] > 0


def test_the_config_file_decides_what_is_adapted() -> None:
    network = lora_examples.example_with_config_file()
    number = len(network.encoder.blocks)
    assert {path.split(".")[3] for path in lora_layers(network)} == {str(number - 2), str(number - 1)}
    assert all(".attn." in path and layer.lora_a.shape[0] == 4 for path, layer in lora_layers(network).items())
    assert network.class_head.weight.requires_grad
    assert not network.mask_head[0].weight.requires_grad


def test_the_compared_counts_follow_from_the_shapes() -> None:
    counts = lora_examples.example_parameter_comparison()
    network = lora_examples.make_network()
    assert counts["full fine-tuning"] == sum(parameter.numel() for parameter in network.parameters())
    shapes = {
        path: module.weight.shape
        for path, module in network.encoder.backbone.blocks.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    for rank in (2, 4, 8):
        attention = sum(rank * sum(shape) for path, shape in shapes.items() if ".attn." in path)
        assert counts[f"rank {rank} on attention"] == attention
        assert counts[f"rank {rank} on attention + mlp"] == sum(rank * sum(shape) for shape in shapes.values())


def test_the_training_loop_learns_through_adapters_alone_and_keeps_it() -> None:
    result = lora_examples.example_training_loop()
    assert result["losses"][-1] < 0.5 * result["losses"][0]
    network = apply_lora(lora_examples.make_network(), lora_examples.create_dummy_lora_config())
    assert set(result["changed"]) <= set(adapter_parameters(network))
    assert sum(name.endswith("lora_b") for name in result["changed"]) == len(lora_layers(network))
    assert result["loaded_difference"] == 0
    assert result["merged_difference"] < 1e-5


def test_the_module_runs_all_of_them() -> None:
    output = subprocess.run(
        [sys.executable, "-m", "eomt.lora_examples"], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    for name in ("create_dummy_lora_config", *(name for name in dir(lora_examples) if name.startswith("example_"))):
        assert f"--- {name}\n" in output
