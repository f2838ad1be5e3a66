"""The image encoder of SAM 2 against transformers' own."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, Sam2Model
from transformers.models.sam2.modeling_sam2 import Sam2MultiScaleBlock

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models.parts.sam2_encoder import HieraBlock, features_of, join_windows, stages, use_lean_blocks
from tests.tiny_sam2 import tiny_model

# stage and place of a block, and the map that it gets: windows of 4, with and without a rest; of everything; pooled
BLOCKS = [(0, 0, (8, 8)), (0, 0, (6, 10)), (0, 1, (6, 10)), (1, 0, (8, 8)), (1, 0, (6, 10)), (1, 1, (3, 5))]


def make_block(stage: int, place: int) -> Sam2MultiScaleBlock:
    """transformers' block; the second of stage 0 attends to everything, the first of stage 1 pools."""
    torch.manual_seed(0)
    config = Sam2HieraDetConfig(
        hidden_size=8,
        blocks_per_stage=[2, 2],
        embed_dim_per_stage=[8, 16],
        num_attention_heads_per_stage=[1, 2],
        window_size_per_stage=[4, 2],
        global_attention_blocks=[1],
        num_query_pool_stages=1,
    )
    config._attn_implementation = "sdpa"
    block = Sam2MultiScaleBlock(config, stage, place, 2 * stage + place).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def gradients(module: nn.Module, output: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Gradients of a loss in which every place weighs differently, of parameters and input."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    names = [name for name, _ in module.named_parameters()]
    found = torch.autograd.grad((output * weights).sum(), [x, *module.parameters()])
    return dict(zip(["x", *names], found, strict=True))


@pytest.mark.parametrize(("stage", "place", "size"), BLOCKS)
def test_a_block_is_that_of_transformers(stage: int, place: int, size: tuple[int, int]) -> None:
    theirs = make_block(stage, place)
    ours = HieraBlock(copy.deepcopy(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, *size, theirs.dim, dtype=torch.float64, requires_grad=True)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(ours, found, x), gradients(theirs, expected, x))


def test_padding_is_not_projected() -> None:
    block = HieraBlock(make_block(0, 0))
    places: list[int] = []
    for layer in (block.attn.qkv, block.attn.proj):
        layer.register_forward_pre_hook(lambda _, given: places.append(given[0][..., 0].numel()))
    block(torch.randn(2, 6, 10, 8, dtype=torch.float64))
    assert places == [2 * 6 * 10] * 2


def test_function_transforms_take_a_block() -> None:
    block = HieraBlock(make_block(0, 0))
    x = torch.randn(2, 6, 10, 8, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(block(x).pow(3).sum(), x)
    found = torch.func.grad(lambda x: block(x).pow(3).sum())(x.detach())
    torch.testing.assert_close(found, expected)


def lean(model: Sam2Model) -> Sam2Model:
    model = copy.deepcopy(model)
    use_lean_blocks(model.vision_encoder.backbone)
    return model


# the second gives windows of 4 a rest in the third stage
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_stages_are_those_of_transformers(size: tuple[int, int]) -> None:
    theirs = tiny_model().double()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = theirs.vision_encoder.backbone(pixels).intermediate_hidden_states
    for stage, state in zip(stages(lean(theirs).vision_encoder.backbone, pixels), expected, strict=True):
        torch.testing.assert_close(join_windows(*stage), state)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("pools", [False, True])
def test_features_are_those_of_transformers(pools: bool, adapted: bool) -> None:
    theirs: Any = tiny_model().double()
    if adapted:
        config = LoRAConfig(rank=2, lora_dropout=0.0, target_modules=[r"re:vision_encoder\.neck\.convs\.\d"])
        apply_lora(theirs, config)
        for name, parameter in theirs.named_parameters():
            if "lora_b" in name:
                nn.init.normal_(parameter)
    ours = lean(theirs)
    pixels = torch.randn(2, 3, 96, 160, dtype=torch.float64)
    fine, middle, coarse = theirs.vision_encoder(pixels).fpn_hidden_states
    found = features_of(ours, stages(ours.vision_encoder.backbone, pixels), pools)
    torch.testing.assert_close(found.stride_4, theirs.mask_decoder.conv_s0(fine))
    torch.testing.assert_close(found.stride_8, theirs.mask_decoder.conv_s1(middle))
    torch.testing.assert_close(found.embedding, coarse + theirs.no_memory_embedding.view(1, -1, 1, 1))
    assert found.pooled.shape == (2, 9 * coarse.shape[1] if pools else 0)
