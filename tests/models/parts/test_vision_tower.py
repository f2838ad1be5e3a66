"""Vision towers: transformers' own tokens in five families, sizes, colors, strict reading, nothing trained in vain."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)

from eomt.errors import UserError
from eomt.models.parts.vision_tower import VisionTower, make_vision_tower
from eomt.verification.audit import loaded_names
from tests.gradients import KEY_BIAS
from tests.tiny_vqa import enlarge_weights

SHARED = Path(__file__).parents[4] / "shared" / "weights" / "dinov2-small"
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 7,
    "image_size": 28,
}  # fmt: skip
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 20}
# model_type -> tokens before the patches, mean of red
FAMILIES = {
    "dinov2": (1, 0.485),
    "dinov2_with_registers": (5, 0.485),
    "dinov3_vit": (3, 0.485),
    "clip_vision_model": (1, 0.48145466),
    "siglip_vision_model": (0, 0.5),
}
families = pytest.mark.parametrize("family", FAMILIES)


def config(family: str) -> dict[str, Any]:
    fields = {"model_type": family} | SIZES
    return fields | ({"num_register_tokens": 2} if family == "dinov3_vit" else {})


def plain(family: str) -> PreTrainedModel:
    """transformers' own model with weights that show."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(**config(family))).eval()
    enlarge_weights(model)
    return model


def write(model: Any, folder: Path) -> str:
    model.save_pretrained(folder)
    return str(folder)


def images(height: int = 28, width: int = 28) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def expected(tower: VisionTower, model: PreTrainedModel, pixels: Tensor, prefix: int) -> Tensor:
    resample = {"interpolate_pos_encoding": True} if model.config.model_type[:4] in ("clip", "sigl") else {}
    normal = (pixels / 255 - tower.normalize.mean) / tower.normalize.std
    return model(normal, **resample).last_hidden_state[:, prefix:]


@families
@pytest.mark.parametrize("size", [(28, 28), (35, 21)])
def test_tokens_are_transformers_own_patch_tokens(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    prefix, red = FAMILIES[family]
    model, pixels = plain(family), images(*size)
    tower = make_vision_tower(write(model, tmp_path / "model"), True, size).eval()
    found = tower(pixels)
    assert found.shape == (2, size[0] // 7 * size[1] // 7, 32)
    assert tower.normalize.mean[0, 0].item() == pytest.approx(red)
    torch.testing.assert_close(found, expected(tower, model, pixels, prefix))
    torch.testing.assert_close(tower(pixels / 255), found)
    # it reads from the file all that it has
    assert loaded_names(tower) == set(tower.state_dict())


@families
def test_every_parameter_gets_a_gradient(family: str) -> None:
    tower = make_vision_tower(config(family), False, (28, 28))
    enlarge_weights(tower)
    tower(images()).square().sum().backward()
    for name, parameter in tower.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() or KEY_BIAS.search(name), name


def test_weights_in_half_precision_are_read_as_fp32(tmp_path: Path) -> None:
    model = plain("dinov2").half()
    tower = make_vision_tower(write(model, tmp_path / "model"), True, (28, 28))
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
    assert torch.equal(tower.model.embeddings.cls_token, model.embeddings.cls_token.float())


@families
def test_a_tower_in_bf16_takes_bytes_and_floats(family: str) -> None:
    tower = make_vision_tower(config(family), False, (28, 28)).bfloat16().eval()
    for pixels in (images(), images() / 255):
        assert tower(pixels).dtype == torch.bfloat16


@families
def test_depth_counts_the_blocks(family: str) -> None:
    tower = make_vision_tower(config(family), False, (28, 28))
    depths = {name: tower.depth_of(name.removeprefix("model.")) for name, _ in tower.named_parameters()}
    assert set(depths.values()) == {0, 1, 2}
    for index, block in enumerate(tower.blocks):
        inside = {id(parameter) for parameter in block.parameters()}
        for name, parameter in tower.named_parameters():
            assert id(parameter) not in inside or depths[name] == index + 1
    assert all(depth == 0 for name, depth in depths.items() if "embedding" in name or "pre_layrnorm" in name)


@pytest.mark.parametrize("whole", ["clip", "siglip"])
def test_of_a_whole_model_the_vision_part_is_taken(whole: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any
    if whole == "clip":
        model = CLIPModel(CLIPConfig(vision_config=SIZES, text_config=TEXT)).eval()
    else:
        model = SiglipModel(SiglipConfig(vision_config=SIZES, text_config=TEXT)).eval()
    enlarge_weights(model)
    tower = make_vision_tower(write(model, tmp_path / "model"), True, (28, 28)).eval()
    prefix = FAMILIES[f"{whole}_vision_model"][0]
    torch.testing.assert_close(tower(images()), expected(tower, model.vision_model, images(), prefix))
    assert tower.embed_dim == 32


def test_colors_beside_the_weights_go_before_the_familys(tmp_path: Path) -> None:
    folder = write(plain("dinov2"), tmp_path / "model")
    file = tmp_path / "model" / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    tower = make_vision_tower(folder, True, (28, 28))
    torch.testing.assert_close(tower.normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(tower.normalize.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))
    file.write_text(json.dumps({"do_normalize": False, "image_mean": [0.1, 0.2, 0.3]}))
    tower = make_vision_tower(folder, True, (28, 28))
    assert not tower.normalize.mean.any()
    assert (tower.normalize.std == 1).all()
    for content, message in (
        (
            json.dumps({"image_std": [0.4, 0.5, 0]}),
            r"image_std\.2 is 0, but must be greater than 0; give three numbers",
        ),
        (json.dumps({"image_mean": 0.5}), "image_mean is 0.5, but must be a valid list; give three numbers"),
        ("{", "preprocessor_config.json cannot be read"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            make_vision_tower(folder, True, (28, 28))


@pytest.mark.parametrize("size", [(28, 30), (27, 28), (6, 28), (0, 28)])
def test_sizes_that_are_no_multiple_of_the_patch_are_refused(size: tuple[int, int]) -> None:
    message = "both must be multiples of the patch size 7"
    with pytest.raises(UserError, match=f"img_size: {size[0]} x {size[1]} pixels; {message}"):
        make_vision_tower(config("dinov2"), False, size)
    tower = make_vision_tower(config("dinov2"), False, (28, 28))
    with pytest.raises(UserError, match=f"images: {size[0]} x {size[1]} pixels; {message}"):
        tower(torch.zeros(1, 3, *size))


def test_a_damaged_folder_is_refused_by_what_is_wrong(tmp_path: Path) -> None:
    folder = write(plain("dinov2"), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    state = load_file(file)
    name = "encoder.layer.1.mlp.fc1.weight"
    assert name in state

    def refused(changed: dict[str, Tensor], message: str) -> None:
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(UserError, match=message) as error:
            make_vision_tower(folder, True, (28, 28))
        assert "\n" not in str(error.value)

    refused({key: value for key, value in state.items() if key != name}, f"lacks '{name}'")
    refused(
        state | {name: torch.zeros(3, 4)}, rf"'{name}' has shape \[3, 4\], the model of its config.json has \[128, 32\]"
    )
    # what patch tokens do not depend on may be missing
    save_file({key: value for key, value in state.items() if "mask_token" not in key}, file, {"format": "pt"})
    make_vision_tower(folder, True, (28, 28))
    file.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="its weights cannot be read"):
        make_vision_tower(folder, True, (28, 28))
    file.unlink()
    with pytest.raises(UserError, match=r"its weights cannot be read .*no file named"):
        make_vision_tower(folder, True, (28, 28))


def test_nothing_in_a_file_of_weights_is_run(tmp_path: Path) -> None:
    folder = write(plain("dinov2"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"weight": Path("object")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds objects instead of plain tensors; give safetensors"):
        make_vision_tower(folder, True, (28, 28))


def test_what_is_no_vision_tower_is_refused_by_name(tmp_path: Path) -> None:
    bert = BertModel(BertConfig(**TEXT))
    folder = write(bert, tmp_path / "bert")
    for source, message in (
        (folder, "model_type 'bert'; must be one of dinov2, "),
        ({"model_type": "vit"}, "a new vit: model_type 'vit'; must be one of"),
        ({"model_type": "nonsense"}, "vision_model: a new nonsense: its configuration cannot be read"),
        ({"hidden_size": 3}, "vision_model: has no model_type"),
        (config("dinov2") | {"hidden_size": "x"}, "its configuration cannot be read"),
        (config("dinov2") | {"hidden_size": 33}, "hidden_size 33; must be a multiple of the 2 heads"),
        (config("dinov2") | {"patch_size": [7, 7]}, "must be one number"),
        (str(tmp_path), "its configuration cannot be read"),
        ("/not/there", "vision_model: '/not/there' is no folder"),
        ("facebook/not-in-the-cache", "its configuration cannot be read"),
    ):
        with pytest.raises(UserError, match=message) as error:
            make_vision_tower(source, True, (28, 28))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared DINOv2-small weights are not here")
def test_the_released_small_model_gives_transformers_tokens() -> None:
    tower = make_vision_tower(str(SHARED), True, (70, 56)).eval()
    model = AutoModel.from_pretrained(SHARED, dtype=torch.float32).eval()
    with torch.no_grad():
        found = tower(images(70, 56))
        torch.testing.assert_close(found, expected(tower, model, images(70, 56), 1))
    assert found.shape == (2, 20, 384)
    assert found.dtype == torch.float32
    assert loaded_names(tower) == set(tower.state_dict())
