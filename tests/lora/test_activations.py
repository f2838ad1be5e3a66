"""Activations whose input is made again: the same gradients for less memory, and nothing else changes."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from eomt.lora.activations import RemadeActivation, is_activation, make_inputs_again
from eomt.lora.layers import LoRALinear, merge_lora_weights
from eomt.verification.kept import kept_bytes
from tests.lora.test_memory import NETWORKS, adapted, loss_of

# their wide tensor is a product, which is kept
GATED = {"timm DINOv2 with SwiGLU"}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_to_the_last_bit_and_less_is_kept(name: str) -> None:
    network, batch = adapted(name)
    less = copy.deepcopy(network)
    make_inputs_again(less, True)
    assert less.state_dict().keys() == network.state_dict().keys()
    gradients, kept = [], []
    for model in (network, less):
        torch.manual_seed(1)
        loss = loss_of(model, batch)
        kept.append(kept_bytes(model, loss).total)
        loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())
    assert kept[1] <= (1.0 if name in GATED else 0.9) * kept[0]


def test_in_bf16_too() -> None:
    network, batch = adapted("timm ViT")
    network.float()
    less = copy.deepcopy(network)
    make_inputs_again(less, True)
    found = []
    for model in (network, less):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch.float()).float().pow(3).sum()
        loss.backward()
        found.append([value.grad for value in model.parameters() if value.grad is not None])
    assert all(map(torch.equal, *found))


def test_a_vit_keeps_six_tenths() -> None:
    network, batch = adapted("timm ViT")
    kept = []
    for again in (False, True):
        make_inputs_again(network, again)
        kept.append(kept_bytes(network, loss_of(network, batch)).total)
    # ten units of a block become six; its test network is small beside the rest
    assert kept[1] < 0.7 * kept[0]


def test_the_setting_is_taken_back_and_survives_copies_and_files() -> None:
    network, batch = adapted("timm ViT", dropout=0.0)
    network.eval()
    expected = network(batch.double())
    plain = str(network)
    make_inputs_again(network, True)
    make_inputs_again(network, True)
    count = sum(isinstance(module, RemadeActivation) for module in network.modules())
    assert count == len(network.blocks)
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(same(batch.double()), expected)
    make_inputs_again(network, False)
    assert str(network) == plain
    make_inputs_again(network, True)
    merged = merge_lora_weights(copy.deepcopy(network))
    torch.testing.assert_close(merged(batch.double()), expected)


def test_under_checkpointing_nothing_is_read_twice() -> None:
    block = nn.Sequential(nn.LayerNorm(8), LoRALinear(8, 16), RemadeActivation(nn.GELU()), LoRALinear(16, 8)).double()
    for layer in (block[1], block[3]):
        nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 8, dtype=torch.double, requires_grad=True)
    found = []
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=False)):
        torch.manual_seed(1)
        found.append(torch.autograd.grad(run(x).pow(3).sum(), x)[0])
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.GELU(), True),
        (nn.SiLU(), True),
        (timm.layers.QuickGELU(), True),
        (nn.ReLU(inplace=True), False),
        (nn.PReLU(), False),
        (nn.RReLU(), False),
        (nn.Dropout(), False),
        (nn.Identity(), False),
    ],
)
def test_what_counts_as_an_activation(module: nn.Module, expected: bool) -> None:
    assert is_activation(module) is expected


def test_what_is_shared_or_nested_is_made_again_too() -> None:
    shared = nn.GELU()
    network = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(2, 2), shared), "other": nn.Sequential(shared)})
    make_inputs_again(network, True)
    assert isinstance(network["inner"][1], RemadeActivation)
    assert network["inner"][1] is network["other"][0]
    make_inputs_again(network, False)
    assert network["inner"][1] is network["other"][0] is shared


def mlps(number: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for _ in range(number) for part in (LoRALinear(8, 8, rank=2), nn.GELU())]
    network = nn.Sequential(*layers).double()
    for layer in network[::2]:
        nn.init.normal_(layer.lora_b)
    return network


@pytest.mark.parametrize("shape", [(5, 8), (0, 8)])
def test_in_a_row_and_on_no_sample_gradients_are_those_of_plain_activations(shape: tuple[int, ...]) -> None:
    network, x = mlps(4), torch.randn(shape, dtype=torch.double, requires_grad=True)
    found = []
    for again in (False, True):
        make_inputs_again(network, again)
        torch.manual_seed(1)
        first = network[:2](x)
        y = network[2:](first)
        found.append(torch.autograd.grad(y.pow(3).sum(), (x, network[0].lora_a, network[0].lora_b), retain_graph=True))
        # the layer behind has made it, and nothing is left of it
        assert hasattr(first.grad_fn, "made") == again
        assert getattr(first.grad_fn, "made", None) is None
    assert all(map(torch.equal, *found))


def test_hooks_and_changes_in_place_are_seen() -> None:
    x = torch.randn(5, 8, dtype=torch.double)
    gradients, calls = [], []
    for again in (False, True):
        network = mlps(2)
        make_inputs_again(network, again)
        activation = network[1].inner if again else network[1]
        activation.register_forward_pre_hook(lambda _, given: (calls.append(1), (2 * given[0],))[1])
        torch.manual_seed(1)
        network(x).sum().backward()
        gradients.append(network[0].lora_a.grad)
    assert calls == [1, 1]
    assert torch.equal(*gradients)
    plain = mlps(2)
    gradients = []
    for model in (plain, mlps(2)):
        make_inputs_again(model, model is not plain)
        torch.manual_seed(1)
        y = model[0](x)
        with torch.no_grad():
            y[:, 0] = 0
        model[1:](y).sum().backward()
        gradients.append(model[0].lora_a.grad)
    assert torch.equal(*gradients)


def test_a_backward_pass_within_autocast_computes_in_the_dtype_of_the_forward_pass() -> None:
    network = mlps(1).float()
    make_inputs_again(network, True)
    y = network(torch.randn(5, 8)).sum()
    with torch.autocast("cpu", torch.bfloat16):
        y.backward()
    assert network[0].lora_a.grad.dtype == torch.float32


def test_what_hooks_keep_is_not_read() -> None:
    def unpack(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("activation checkpointing would compute a block here")

    network = mlps(1)
    make_inputs_again(network, True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        inside = network[0](torch.randn(5, 8, dtype=torch.double))
    assert network[1](inside).grad_fn.name().startswith("Gelu")
