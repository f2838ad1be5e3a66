"""EoMT on each kind of backbone: sizes, gradients, adapters, compilation, and the backbone on its own."""

import pytest
import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import lora_layers
from eomt.models import EoMT, ViT
from tests.models.weights.eomt_pairs import make_encoder, make_network, randomize

# DINOv2 with and without registers and with gates, DINOv3 with and without biases and with gates, MAE and supervised,
# class-token-less, CLIP's norm before the blocks, DeiT-III, flexible patches, norms behind their layers
NAMES = [
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch14_dinov2",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3",
    "vit_base_patch16_224.mae",
    "vit_small_patch16_224",
    "vit_base_patch16_siglip_gap_224",
    "vit_giant_patch14_reg4_dinov2",
    "vit_base_patch16_clip_224",
    "deit3_small_patch16_224",
    "flexivit_small",
    "vit_base_patch16_rpn_224",
]
DINOV3 = [name for name in NAMES if "dinov3" in name]
SIZE = (32, 64)


def make_image(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


def make(name: str, size: tuple[int, int] = SIZE, **arguments: object) -> EoMT:
    network = make_network(encoder=make_encoder(name, size, **arguments))
    randomize(network)
    return network


@pytest.mark.parametrize("name", NAMES)
def test_predictions_have_a_quarter_of_the_resolution_of_images_that_are_not_square(name: str) -> None:
    network = make(name)
    for size in (SIZE, (48, 80)):
        predictions = network.train()(make_image(size))
        assert len(predictions) == network.num_blocks + 1
        assert all(p.mask_logits.shape == (2, 6, size[0] // 4, size[1] // 4) for p in predictions)
        assert all(value.isfinite().all() for prediction in predictions for value in prediction)


@pytest.mark.parametrize("patch_size", [14, 16])
def test_dinov2_runs_with_its_own_patches_and_others(patch_size: int) -> None:
    size = (2 * patch_size, 3 * patch_size)
    found = make("vit_small_patch14_reg4_dinov2", size, patch_size=patch_size)(make_image(size))
    assert found[-1].mask_logits.shape == (2, 6, 8, 12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("targets", [["attention", "mlp"], ["query", "key", "value"]])
def test_every_adapter_gets_a_gradient_in_every_block(name: str, targets: list[str]) -> None:
    network = make(name).double().train()
    before = network(make_image())[-1].mask_logits
    apply_lora(network, LoRAConfig(rank=2, lora_dropout=0.0, target_modules=targets, freeze_base_model=True))
    after = network(make_image())[-1]
    torch.testing.assert_close(after.mask_logits, before)
    (after.mask_logits.square().sum() + after.class_logits.square().sum()).backward()
    layers = lora_layers(network)
    assert {path.split(".")[3] for path in layers} == {"0", "1", "2"}
    grown = [name for name, p in network.named_parameters() if "lora_b" in name.lower() and not p.grad.any()]
    assert grown == []
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)


@pytest.mark.parametrize("name", DINOV3)
def test_a_dinov3_encoder_computes_what_timm_s_does_before_and_after_it_carried_queries(name: str) -> None:
    network, image = make(name).eval(), make_image()
    encoder = network.encoder
    pixels = (image / 255 - encoder.normalize.mean) / encoder.normalize.std
    expected = encoder.backbone(pixels)[:, encoder.num_prefix_tokens :]
    network(image)
    assert torch.equal(encoder.backbone(pixels)[:, encoder.num_prefix_tokens :], expected)
    torch.testing.assert_close(encoder(image).flatten(2).transpose(1, 2), expected)


def test_queries_and_prefix_tokens_of_dinov3_are_not_rotated() -> None:
    encoder = make("dinov3").encoder
    tokens, _, rope = encoder.embed(make_image())
    assert rope is not None
    queries = torch.randn(2, 3, encoder.embed_dim)
    found = encoder.run_block(0, torch.cat((queries, tokens), dim=1), rope=rope)
    order = torch.tensor([2, 0, 1])
    moved = encoder.run_block(0, torch.cat((queries[:, order], tokens), dim=1), rope=rope)
    # a rotated query would see its place
    torch.testing.assert_close(moved[:, :3], found[:, order])
    torch.testing.assert_close(moved[:, 3:], found[:, 3:])
    first = encoder.num_prefix_tokens
    flipped = encoder.run_block(0, torch.cat((tokens[:, :first], tokens[:, first:].flip(1)), dim=1), rope=rope)
    assert not torch.allclose(flipped[:, first:].flip(1), encoder.run_block(0, tokens, rope=rope)[:, first:], atol=0.01)


@pytest.mark.parametrize("name", ["dinov2", "dinov3"])
def test_checkpointing_has_the_same_gradients_with_queries(name: str) -> None:
    networks = [make(name, checkpointing=checkpointing).train() for checkpointing in (False, True)]
    for network in networks:
        predictions = network(make_image())
        # the encoder alone runs between forward and backward, with fewer tokens
        network.encoder(make_image())
        sum(p.mask_logits.square().sum() for p in predictions).backward()  # type: ignore[union-attr]
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_a_block_of_dinov3_compiles_into_one_graph() -> None:
    network, image = make("dinov3").eval(), make_image()
    expected = network(image)[-1].mask_logits
    # the graph is what is tested; code would take minutes
    network.encoder.blocks[-1].compile(backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(network(image)[-1].mask_logits, expected)


@pytest.mark.parametrize(
    "name",
    [
        "swin_tiny_patch4_window7_224",
        "convnext_tiny",
        "beit_base_patch16_224",
        "eva02_tiny_patch14_224",
        "vit_pe_core_tiny_patch16_384",
        # of plain ViTs' modules: two layers side by side, which take no mask, two class tokens, a ResNet before
        "vit_small_patch16_18x2_224",
        "deit_tiny_distilled_patch16_224",
        "vit_tiny_r_s16_p8_224",
    ],
)
def test_backbones_whose_blocks_take_no_queries_are_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}' is no plain ViT or DINOv3") as caught:
        ViT(name, pretrained=False)
    assert "\n" not in str(caught.value)


def test_dinov3_in_bf16() -> None:
    network = make("dinov3").eval()
    image = make_image()
    expected = network(image)[-1].mask_logits
    found = network.bfloat16()(image)[-1].mask_logits
    assert found.dtype == torch.bfloat16
    assert nn.functional.cosine_similarity(found.float().flatten(), expected.flatten(), dim=0) > 0.9
