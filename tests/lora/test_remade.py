"""Inputs that are made again of what their graph keeps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from eomt.lora.remade import recipe_of

NORM = nn.LayerNorm(8).requires_grad_(False)
PLAIN_NORM = nn.LayerNorm(8, elementwise_affine=False)
UNBIASED = nn.LayerNorm(8, bias=False).requires_grad_(False)
TRAINED = nn.LayerNorm(8)
RMS, LLAMA = nn.RMSNorm(8).requires_grad_(False), LlamaRMSNorm(8).requires_grad_(False)
for module in (NORM, UNBIASED, TRAINED, RMS, LLAMA):
    for parameter in module.parameters():
        nn.init.normal_(parameter)


def windows(x: Tensor) -> Tensor:
    """Windows of 3 x 1 over a map, shifted."""
    x = NORM(x).view(2, 3, 3, 8).roll((1, -1), (1, 2))
    return x.view(2, 1, 3, 3, 1, 8).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 3, 8)


class Clone(torch.autograd.Function):
    """An operation with the name of one of torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def gradient_of_gelu(x: Tensor) -> Tensor:
    return torch.autograd.grad(F.gelu(x).pow(2).sum(), x, create_graph=True)[0]


@torch.no_grad()
def doubled(x: Tensor) -> Tensor:
    return x.mul_(2)


def gated(x: Tensor) -> Tensor:
    a, b = (2 * x).chunk(2, -1)
    return F.silu(a) * b


MADE: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": NORM,
    "without weight and bias": PLAIN_NORM,
    "without bias": UNBIASED,
    "trained norm": TRAINED,
    "RMS norm": RMS,
    "RMS norm in plain operations": LLAMA,
    "GELU": lambda x: F.gelu(x * 1),
    "GELU by tanh": lambda x: F.gelu(x * 1, approximate="tanh"),
    "SiLU": lambda x: F.silu(x * 1),
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "gated": gated,
    "after no dropout": lambda x: F.dropout(F.gelu(x * 1), 0.0, True),
    "class token": lambda x: NORM(x)[:, 0],
    "patch tokens": lambda x: NORM(x)[:, 1:],
    "turned": lambda x: NORM(x).transpose(0, -1),
    "cast": lambda x: NORM(x).to(torch.bfloat16),
    "windows": windows,
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]).transpose(1, 2).contiguous(),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_again_is_what_was_there(name: str) -> None:
    torch.manual_seed(0)
    source = torch.randn(2, 9, 8, requires_grad=True)
    x = MADE[name](source * 1)
    recipe = recipe_of(x)
    assert recipe is not None
    assert not any(tensor is not None and tensor.requires_grad for tensor in recipe.kept)
    made = recipe.make(*recipe.kept)
    assert made.dtype == x.dtype
    # the statistics of a norm are used, not made again, so that the last bit may differ
    torch.testing.assert_close(made.reshape(x.shape), x.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x + 1,
        lambda x: NORM(x) + x,
        lambda x: torch.cat([x, x]),
        lambda x: F.linear(x, torch.ones(4, 8)),
        lambda x: x.split(4, -1)[1],
        lambda x: F.dropout(F.gelu(x), 0.5, True),
        # the graph does not say with what
        lambda x: F.pad(NORM(x), (0, 0, 0, 1), value=1.0),
        gradient_of_gelu,
        lambda x: Clone.apply(NORM(x)),
        lambda x: doubled(F.gelu(x)),
        lambda x: NORM(x).to("meta"),
        lambda x: F.layer_norm(x.bfloat16(), (8,)),
        lambda x: torch.ops.aten.slice(x, 1, None, 2),
    ],
)
def test_anything_else_is_kept(make: Callable[[Tensor], Tensor]) -> None:
    assert recipe_of(make(torch.randn(2, 9, 8, requires_grad=True) * 1)) is None


@pytest.mark.parametrize(
    "make", [NORM, RMS, F.gelu, F.silu, lambda x: x * x.exp(), lambda x: F.scaled_dot_product_attention(x, x, x)]
)
def test_nothing_is_read_where_something_else_keeps_tensors(make: Callable[[Tensor], Tensor]) -> None:
    """Checkpointed blocks ran twice up to their attention: to ask whether it keeps its output was to read it."""
    source = torch.randn(2, 1, 9, 8, requires_grad=True)

    def unpack(_: Tensor) -> Tensor:
        raise AssertionError("activation checkpointing would compute a block here")

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        inside = make(source * 1)
        assert inside.grad_fn is not None
        assert recipe_of(inside) is None
    # a layer behind a checkpointed block
    assert recipe_of(inside) is None
    assert recipe_of(F.silu(source * 1) * inside) is not None


def test_a_constant_that_was_changed_in_place_is_noticed() -> None:
    constant = torch.ones(8)
    recipe = recipe_of(F.gelu(torch.randn(2, 8, requires_grad=True) * 1) * constant)
    assert recipe is not None
    # kept as the operation keeps it, which notes versions
    assert any(tensor is not None and tensor.data_ptr() == constant.data_ptr() for tensor in recipe.kept)


def test_a_source_that_was_changed_in_place_is_not_used() -> None:
    source = torch.randn(2, 9, 8, requires_grad=True) * 1
    x = F.gelu(source)
    source.detach().add_(1)
    assert recipe_of(x) is None
