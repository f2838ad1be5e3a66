"""The encoder: layouts it reads, sizes it takes, what it refuses."""

import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eomt.errors import UserError
from eomt.models import ViT
from eomt.utils.loaded import loaded_in
from tests.models.weights.eomt_pairs import DEPTH, NUM_HEADS, WIDTH, make_encoder, randomize
from tests.tiny import make_image

SHARED = Path(__file__).parents[3] / "shared" / "weights" / "dinov2-small"


def tiny(**arguments: object) -> ViT:
    return ViT("test_vit", (32, 48), **{"pretrained": False, "patch_size": 8} | arguments)  # type: ignore[arg-type]


def test_forward_gives_a_grid_of_features() -> None:
    assert tiny()(make_image()).shape == (2, 64, 4, 6)


def test_uint8_and_unit_interval_are_the_same_image() -> None:
    encoder, image = tiny().eval(), make_image()
    torch.testing.assert_close(encoder(image), encoder(image / 255))


def test_a_network_in_bf16_takes_images() -> None:
    encoder, image = tiny().eval(), make_image()
    expected = encoder(image)
    found = encoder.bfloat16()(image)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


def test_a_batch_of_another_size_is_taken() -> None:
    assert tiny()(torch.zeros(1, 3, 40, 64, dtype=torch.uint8)).shape == (1, 64, 5, 8)


def test_sizes_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(UserError, match=r"img_size: \[32, 50\] .*8; \[32, 48\] would do"):
        ViT("test_vit", (32, 50), pretrained=False, patch_size=8)
    with pytest.raises(UserError, match="image: 33 x 48"):
        tiny()(torch.zeros(1, 3, 33, 48, dtype=torch.uint8))


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="nearest: vit_base_patch14_dinov2"):
        ViT("vit_base_patch14_dinov", pretrained=False)
    with pytest.raises(UserError, match="no plain ViT"):
        ViT("resnet18", pretrained=False)


@pytest.mark.parametrize("as_file", [True, False])
def test_timm_layout_with_position_grid_and_patch_resized(tmp_path: Path, as_file: bool) -> None:
    source = ViT("test_vit", (48, 48), pretrained=False, patch_size=8)
    save_file(source.backbone.state_dict(), tmp_path / "model.safetensors")
    path = str(tmp_path / "model.safetensors" if as_file else tmp_path)
    loaded = ViT("test_vit", (48, 48), pretrained=path, patch_size=8)
    assert torch.equal(loaded(make_image()), source(make_image()))
    resized = ViT("test_vit", (64, 64), pretrained=path, patch_size=16)
    assert resized.backbone.pos_embed.shape[1] == 16 + 1
    assert torch.equal(resized.backbone.blocks[3].attn.qkv.weight, source.backbone.blocks[3].attn.qkv.weight)


def test_torch_files_are_read_without_running_code(tmp_path: Path) -> None:
    source = tiny()
    torch.save({"state_dict": source.backbone.state_dict()}, tmp_path / "pytorch_model.bin")
    assert torch.equal(tiny(pretrained=str(tmp_path))(make_image()), source(make_image()))
    torch.save(nn.Linear(2, 2), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read"):
        tiny(pretrained=str(tmp_path))


@pytest.mark.parametrize("registers", [0, 4])
def test_hugging_face_layout_gives_hugging_face_s_answers(tmp_path: Path, registers: int) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = {
        "hidden_size": 384,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "image_size": 126,
        "patch_size": 14,
    }
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**arguments, num_register_tokens=registers)
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**arguments))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    model.eval().save_pretrained(tmp_path)
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    encoder = ViT(name, (126, 126), pretrained=str(tmp_path)).eval()
    image = torch.randint(0, 256, (1, 3, 126, 126), dtype=torch.uint8)
    with torch.no_grad():
        expected = model((image / 255 - encoder.normalize.mean) / encoder.normalize.std).last_hidden_state[
            :, 1 + registers :
        ]
        found = encoder(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert loaded_in(encoder.backbone) == set(encoder.backbone.state_dict())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared DINOv2-small weights are not here")
def test_real_dinov2_small_loads() -> None:
    encoder = ViT("vit_small_patch14_dinov2", (126, 126), pretrained=str(SHARED))
    assert encoder(torch.zeros(1, 3, 126, 126, dtype=torch.uint8)).shape == (1, 384, 9, 9)


@pytest.mark.parametrize("gated", [False, True])
def test_hugging_face_s_dinov3_gives_its_answers(tmp_path: Path, gated: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=NUM_HEADS,
        intermediate_size=4 * WIDTH,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    model = randomize(transformers.DINOv3ViTModel(config)).eval()
    model.save_pretrained(tmp_path)
    name = "vit_small_plus_patch16_dinov3_qkvb" if gated else "vit_small_patch16_dinov3_qkvb"
    encoder = make_encoder(name, (32, 48), pretrained=str(tmp_path)).eval()
    image = make_image()
    with torch.no_grad():
        expected = model((image / 255 - encoder.normalize.mean) / encoder.normalize.std).last_hidden_state[:, 5:]
        found = encoder(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert loaded_in(encoder.backbone) == set(encoder.backbone.state_dict())


@pytest.mark.parametrize("name", ["vit_base_patch16_224.mae", "vit_small_patch16_dinov3"])
def test_weights_as_their_authors_keep_them(tmp_path: Path, name: str) -> None:
    source = make_encoder(name, (32, 48))
    torch.save({"model": source.backbone.state_dict() | {"mask_token": torch.zeros(1, 1, WIDTH)}}, tmp_path / "mae.pth")
    loaded = make_encoder(name, (32, 48), pretrained=str(tmp_path / "mae.pth"))
    assert torch.equal(loaded(make_image()), source(make_image()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_file_of_dinov2_with_registers_is_read_as_its_authors_made_it(tmp_path: Path, wrapped: bool) -> None:
    """15.27: the default backbone's own .pth; there the positions hold one for the class token."""
    source = make_encoder("vit_small_patch14_reg4_dinov2", (32, 48))
    state = dict(source.backbone.state_dict())
    official = {name: value for name, value in state.items() if name not in ("reg_token", "pos_embed", "cls_token")}
    of_class = torch.randn(1, 1, WIDTH)
    official |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, WIDTH)}
    official |= {"cls_token": state["cls_token"] - of_class, "pos_embed": torch.cat((of_class, state["pos_embed"]), 1)}
    if wrapped:
        # as training code saves it: names of DataParallel, figures of numpy, settings of argparse
        official = {f"module.{name}": value for name, value in official.items()}
        content = {"model": official, "loss": np.float64(0.5), "args": Namespace(lr=1e-3), "epoch": 3}
        torch.save(content, tmp_path / "dinov2.pth")
    else:
        torch.save(official, tmp_path / "dinov2.pth")
    loaded = make_encoder("vit_small_patch14_reg4_dinov2", (32, 48), pretrained=str(tmp_path / "dinov2.pth"))
    image = make_image()
    torch.testing.assert_close(loaded(image), source(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "vit_small_patch16_dinov3"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "_orig_mod.", "model.backbone.", "encoder."])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_backbone_is_read_from_what_training_code_saves(
    tmp_path: Path, name: str, prefix: str, is_chunked: bool
) -> None:
    """15.27: advised to choose the backbone_name that these weights are of, which was chosen."""
    source = make_encoder(name, (32, 48))
    state = dict(source.backbone.state_dict()) | {"mask_token": torch.zeros(1, WIDTH)}
    if is_chunked:
        # DINOv2's block_chunks: blocks.<chunk>.<number in the whole>
        state = {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", name): value for name, value in state.items()}
    state = {prefix + name: value for name, value in state.items()}
    state |= {f"{prefix.removesuffix('backbone.')}dino_head.mlp.0.weight": torch.zeros(2, 2)}
    torch.save({"teacher": state}, tmp_path / "teacher.pth")
    loaded = make_encoder(name, (32, 48), pretrained=str(tmp_path / "teacher.pth"))
    assert torch.equal(loaded(make_image()), source(make_image()))


def test_a_file_of_something_else_is_not_said_to_be_of_another_backbone(tmp_path: Path) -> None:
    """15.27"""
    torch.save({"conv1.weight": torch.zeros(2, 2), "fc.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match=r"resnet.pth: conv1.weight, \.\.\. .*: no names of a ViT; give weights with"):
        make_encoder("vit_small_patch14_dinov2", (32, 48), pretrained=str(tmp_path / "resnet.pth"))


def test_weights_that_were_fine_tuned_without_a_norm_of_tokens_are_refused(tmp_path: Path) -> None:
    """15.27: the advice was another backbone_name."""
    state = dict(make_encoder("vit_base_patch16_224.mae", (32, 48)).backbone.state_dict())
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: v for name, v in state.items()}
    torch.save({"model": state | {"head.weight": torch.zeros(2, WIDTH)}}, tmp_path / "mae.pth")
    with pytest.raises(UserError, match=r"was fine-tuned for classification, .* give the weights of the pre-training"):
        make_encoder("vit_base_patch16_224.mae", (32, 48), pretrained=str(tmp_path / "mae.pth"))


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(ViT("test_vit2", (32, 48), pretrained=False).backbone.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="choose the backbone_name"):
        tiny(pretrained=str(tmp_path))


@pytest.mark.parametrize(("name", "content"), [("model.safetensors", b"xx"), ("pytorch_model.bin", b"xx"), (None, b"")])
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str | None, content: bytes) -> None:
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read" if name else "holds neither"):
        tiny(pretrained=str(tmp_path))
    with pytest.raises(UserError, match="is no file or folder"):
        tiny(pretrained=str(tmp_path / "nowhere"))


def test_checkpointing_has_the_same_gradients() -> None:
    encoder = tiny()
    twin = tiny(checkpointing=True)
    twin.load_state_dict(encoder.state_dict())
    for network in (encoder, twin):
        network(make_image()).square().sum().backward()
    for one, other in zip(encoder.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_an_image_size_below_one_pixel_is_refused_by_its_name() -> None:
    """15.32: multiples of the patch size may be negative."""
    with pytest.raises(UserError, match=r"^img_size: \[-32, 48\]; must be at least 1 pixel each way"):
        ViT("test_vit", (-32, 48), pretrained=False, patch_size=8)
