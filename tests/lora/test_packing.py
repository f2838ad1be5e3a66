"""Weights in 8 or 4 bits: how near they are, and products with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.lora.packing import KINDS, NORMAL_FLOATS, Packing, Quantization
from eomt.lora.product import AdaptedProduct, PackedProduct, Update, packed_product

kinds = pytest.mark.parametrize("kind", KINDS)
DOUBLE = {"dtype": torch.double, "requires_grad": True}
# as published with QLoRA, to seven digits
PUBLISHED = [-1.0, -0.6961928, -0.5250730, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
PUBLISHED += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]


def packed(kind: Quantization, weight: Tensor) -> tuple[Packing, Tensor]:
    packing = Packing(kind, (weight.shape[0], weight.shape[1]))
    return packing, packing.pack(weight)


def test_the_numbers_of_nf4_are_the_published_ones() -> None:
    torch.testing.assert_close(NORMAL_FLOATS, torch.tensor(PUBLISHED), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 64), (3, 5), (1, 1), (7, 65)])
def test_nf4_takes_the_nearest_of_16_numbers_in_each_block(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape)
    packing, content = packed("nf4", weight)
    found = packing.unpack(content, torch.float32).flatten()
    for start in range(0, weight.numel(), 64):
        block = weight.flatten()[start : start + 64]
        numbers = NORMAL_FLOATS * block.abs().max()
        nearest = (block[:, None] - numbers).abs().amin(1)
        torch.testing.assert_close((block - found[start : start + 64]).abs(), nearest)
    # half a byte a value, and a scale for each 64
    blocks = -(-weight.numel() // 64)
    assert content.numel() == 32 * blocks + 4 * blocks


@pytest.mark.parametrize("shape", [(6, 64), (3, 5), (1, 1)])
def test_int8_is_within_half_a_step_of_its_row(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[0])[:, None]
    packing, content = packed("int8", weight)
    error = (packing.unpack(content, torch.float32) - weight).abs()
    assert (error <= weight.abs().amax(1, keepdim=True) / 254 * 1.001).all()
    assert content.numel() == weight.numel() + 4 * shape[0]


@kinds
def test_what_was_packed_is_packed_again_to_the_same_bytes(kind: Quantization) -> None:
    weight = torch.randn(10, 70) * 0.02
    weight[3] = 0
    packing, content = packed(kind, weight)
    assert torch.equal(packing.pack(packing.unpack(content, torch.float32)), content)
    assert not packing.unpack(content, torch.float32)[3].any()


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_made_in_the_type_that_is_asked_for(kind: Quantization, dtype: torch.dtype) -> None:
    packing, content = packed(kind, torch.randn(8, 8))
    assert torch.equal(packing.unpack(content, dtype), packing.unpack(content, torch.float32).to(dtype))


@kinds
@pytest.mark.parametrize("shape", [(5, 9), (2, 3, 9), (9,), (0, 9)])
@pytest.mark.parametrize("slices", [None, [0, 2]])
def test_gradients_are_those_of_the_matrix_that_bytes_stand_for(
    kind: Quantization, shape: tuple[int, ...], slices: list[int] | None
) -> None:
    x, bias = torch.randn(shape, **DOUBLE), torch.randn(12, **DOUBLE)
    packing, content = packed(kind, torch.randn(12, 9))
    matrix = packing.unpack(content, torch.double)
    k = () if slices is None else (len(slices),)
    a, b = torch.randn(*k, 2, 9, **DOUBLE), torch.randn(*k, 12 if slices is None else 4, 2, **DOUBLE)
    rest = (bias, a, b, Update(1.5, 0.3, slices), torch.double, 7, None)
    y, expected = AdaptedProduct.apply(x, content, *rest, packing), AdaptedProduct.apply(x, matrix, *rest, None)
    grad = torch.randn_like(y)
    assert torch.equal(y, expected)
    found = torch.autograd.grad(y, (x, bias, a, b), grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, bias, a, b), grad), rtol=0, atol=0)
    y, expected = PackedProduct.apply(x, content, bias, torch.double, packing), F.linear(x, matrix, bias)
    torch.testing.assert_close(y, expected)
    found = torch.autograd.grad(y, (x, bias), grad)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (x, bias), grad))


@kinds
def test_a_product_keeps_bytes_alone_and_follows_autocast(kind: Quantization) -> None:
    packing, content = packed(kind, torch.randn(12, 9))
    x = torch.randn(5, 9, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = packed_product(x, content, None, packing)
    assert y.dtype == torch.bfloat16
    assert [tensor is content or tensor.data_ptr() == content.data_ptr() for tensor in y.grad_fn.saved_tensors] == [
        True
    ]
    y.sum().backward()
    expected = packing.unpack(content, torch.bfloat16).sum(0).expand(5, 9).float()
    torch.testing.assert_close(x.grad, expected, rtol=0.02, atol=0.02)


@kinds
def test_read_by_a_compiler_it_answers_alike(kind: Quantization) -> None:
    packing, content = packed(kind, torch.randn(12, 9))
    x, bias = torch.randn(5, 9, requires_grad=True), torch.randn(12)
    product = torch.compile(packed_product, backend="aot_eager", fullgraph=True)
    y, expected = product(x, content, bias, packing), packed_product(x, content, bias, packing)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), x))
