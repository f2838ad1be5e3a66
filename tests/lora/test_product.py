"""W x + b + s B A dropout(x) as one operation: its gradients, and what it keeps and refuses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.dropout import DroppedConvolution, draw_seed, keep_mask, keep_share
from eomt.lora.layers import LoRAAttention, LoRAConv2d, LoRALinear
from eomt.lora.product import AdaptedProduct, Update, adapted_product

DOUBLE = {"dtype": torch.double, "requires_grad": True}


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, update: Update, seed: int) -> Tensor:
    dropped = x * keep_mask(x, update.dropout, seed) / keep_share(update.dropout) if update.dropout else x
    y = F.linear(x, weight, bias)
    if update.slices is None:
        return y + update.scaling * F.linear(F.linear(dropped, a), b)
    thirds = list(y.chunk(3, -1))
    for index, one_a, one_b in zip(update.slices, a, b, strict=True):
        thirds[index] = thirds[index] + update.scaling * F.linear(F.linear(dropped, one_a), one_b)
    return torch.cat(thirds, -1)


@pytest.mark.parametrize("shape", [(5, 9), (2, 3, 9), (9,), (0, 9)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("slices", [None, [0, 1, 2], [0, 2], [1]])
def test_gradients_are_those_of_plain_operations(
    shape: tuple[int, ...], dropout: float, slices: list[int] | None
) -> None:
    x, bias = torch.randn(shape, **DOUBLE), torch.randn(12, **DOUBLE)
    weight = torch.randn(12, 9, dtype=torch.double)
    k = () if slices is None else (len(slices),)
    a, b = torch.randn(*k, 2, 9, **DOUBLE), torch.randn(*k, 12 if slices is None else 4, 2, **DOUBLE)
    update = Update(1.5, dropout, slices)
    y = AdaptedProduct.apply(x, weight, bias, a, b, update, torch.double, 7, None, None)
    expected = plain(x, weight, bias, a, b, update, 7)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, (x, bias, a, b), grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, bias, a, b), grad))


@pytest.mark.parametrize("trained", [(3,), (4,), (0, 3), (2, 4)])
def test_only_what_is_trained_gets_a_gradient(trained: tuple[int, ...]) -> None:
    tensors = [torch.randn(shape) for shape in ((5, 4), (6, 4), (6,), (2, 4), (6, 2))]
    for place in trained:
        tensors[place].requires_grad_()
    adapted_product(*tensors, Update(1.0, 0.2)).sum().backward()
    assert [place for place, tensor in enumerate(tensors) if tensor.grad is not None] == list(trained)


def test_gradients_of_an_expanded_gradient_and_a_turned_input() -> None:
    x = torch.randn(4, 3, 5, **DOUBLE)
    layer = LoRAAttention(4, 9, rank=2, lora_dropout=0.0, slices=("query", "value")).double()
    nn.init.normal_(layer.lora_b)
    y = layer(x.transpose(0, 2))
    found = torch.autograd.grad(y.sum(), (x, layer.lora_a, layer.lora_b))
    update = Update(layer.scaling, 0.0, [0, 2])
    expected = plain(x.transpose(0, 2), layer.weight, layer.bias, layer.lora_a, layer.lora_b, update, 0)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), (x, layer.lora_a, layer.lora_b)))


@pytest.mark.parametrize("layer", [LoRALinear(8, 6, rank=2), LoRAAttention(8, 6, rank=2, slices=("key",))])
def test_read_by_a_compiler_or_torch_func_it_answers_alike(layer: nn.Module) -> None:
    nn.init.normal_(layer.lora_b)
    layer = layer.eval()
    x = torch.randn(3, 8)
    expected = layer(x)
    torch.testing.assert_close(torch.func.vmap(layer)(x), expected)
    torch.testing.assert_close(torch.jit.trace(layer, (x,))(x), expected)
    gradient = torch.func.grad(lambda x: layer(x).sum())(x)
    (wanted,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    torch.testing.assert_close(gradient, wanted)


def test_autocast_inside_of_the_backward_pass_changes_nothing() -> None:
    layer = LoRALinear(8, 8, rank=2, lora_dropout=0.0)
    nn.init.normal_(layer.lora_b)
    found = []
    for within in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(torch.ones(3, 8))
            if within:
                y.float().sum().backward()
        if not within:
            y.float().sum().backward()
        found.append(layer.lora_a.grad)
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)


@pytest.mark.parametrize("layer", [LoRALinear(8, 8, rank=2), LoRAConv2d(8, 8, 1, rank=2, lora_dropout=0.3)])
def test_a_second_derivative_is_refused_even_where_it_would_have_no_graph(layer: nn.Module) -> None:
    x = torch.randn(3, 8, 1, 1, requires_grad=True)
    y = layer(x if isinstance(layer, LoRAConv2d) else x.flatten(1))
    # of a sum, the gradient that comes in has no graph
    with pytest.raises(UserError, match="create_graph asks for second derivatives"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_frozen_adapters_keep_no_input() -> None:
    layer = LoRALinear(8, 8, rank=2, lora_dropout=0.3).requires_grad_(False)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 8, requires_grad=True)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    seed = draw_seed()
    with torch.no_grad():
        keep = keep_mask(x, 0.3, seed) / keep_share(0.3)
        expected = layer.weight.sum(0) + keep * layer.delta_weight().sum(0)
        # needed by nobody any more
        x.add_(1)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], expected)


def test_the_output_may_be_changed_in_place() -> None:
    layer = LoRALinear(8, 8, rank=2, lora_dropout=0.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 3, 8, requires_grad=True)
    y = layer(x)
    y += 1
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(layer(x).sum(), x)[0])


def test_in_inference_mode_it_answers_alike() -> None:
    layer = LoRAAttention(8, 6, rank=2).eval()
    nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 8)
    with torch.inference_mode():
        found = layer(x)
    assert torch.equal(found, layer(x))


def test_complex_weights_have_the_gradients_of_plain_operations() -> None:
    layer = LoRALinear(4, 3, rank=2, lora_dropout=0.0, dtype=torch.complex128)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 4, dtype=torch.complex128, requires_grad=True)
    y = F.linear(x, layer.weight, layer.bias) + layer.scaling * F.linear(F.linear(x, layer.lora_a), layer.lora_b)
    found = torch.autograd.grad(layer(x).abs().sum(), (x, layer.lora_a))
    torch.testing.assert_close(found, torch.autograd.grad(y.abs().sum(), (x, layer.lora_a)))


def test_an_input_that_was_changed_in_place_is_refused() -> None:
    x = torch.randn(3, 8)
    y = LoRALinear(8, 8, rank=2)(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_a_convolution_with_dropout_has_the_gradients_of_a_masked_copy(padding_mode: str) -> None:
    layer = LoRAConv2d(3, 4, 3, rank=2, padding=1, stride=2, padding_mode=padding_mode).double()
    x = torch.randn(2, 3, 6, 6, **DOUBLE)

    def convolve(x: Tensor, a: Tensor) -> Tensor:
        return layer._conv_forward(x, a, None)

    found = DroppedConvolution.apply(x, layer.lora_a, convolve, 0.3, 7)
    expected = convolve(x * keep_mask(x, 0.3, 7) / keep_share(0.3), layer.lora_a)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    inputs = (x, layer.lora_a)
    torch.testing.assert_close(torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_with_dropout_keeps_no_copy_of_its_input(dtype: torch.dtype) -> None:
    layer = LoRAConv2d(8, 8, 3, rank=2, lora_dropout=0.3)
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    kept: set[int] = set()

    def remember(tensor: Tensor) -> Tensor:
        if tensor.shape == x.shape:
            kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        layer(x)
    # x, or under autocast one narrow copy of it
    assert len(kept) == 1
