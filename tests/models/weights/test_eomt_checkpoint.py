"""Weights of a whole EoMT: layouts that are read, what is resized, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models import EoMT
from eomt.models.weights.eomt.load import classes_in
from eomt.models.weights.eomt.names import from_transposed, to_transposed
from eomt.verification.audit import loaded_names
from tests.models.weights.eomt_pairs import (
    DEPTH,
    NUM_CLASSES,
    NUM_HEADS,
    SIDE,
    WIDTH,
    make_batch,
    make_encoder,
    make_network,
    make_transformers,
    official,
    randomize,
    save,
)
from tests.tiny import make_eomt


def answers(network: EoMT, image: Tensor | None = None) -> list[Tensor]:
    with torch.no_grad():
        return list(network.eval()(make_batch() if image is None else image)[-1])


def assert_equal_answers(one: EoMT, other: EoMT) -> None:
    for found, expected in zip(answers(one), answers(other), strict=True):
        assert torch.equal(found, expected)


def write(state: dict[str, Tensor], folder: Path) -> str:
    torch.save(state, folder / "pytorch_model.bin")
    return str(folder / "pytorch_model.bin")


# ---------------------------------------------------------------------------------------------- layouts


def test_a_transposed_convolution_and_its_1_x_1_form_turn_into_each_other() -> None:
    weight, x = torch.randn(6, 4, 2, 2), torch.randn(1, 6, 3, 5)
    assert torch.equal(to_transposed(from_transposed(weight)), weight)
    expected = nn.functional.conv_transpose2d(x, weight, stride=2)
    torch.testing.assert_close(
        nn.functional.pixel_shuffle(nn.functional.conv2d(x, from_transposed(weight)), 2), expected
    )


@pytest.mark.parametrize("prefix", ["network.", ""])
@pytest.mark.parametrize("with_buffers", [True, False])
def test_official_weights_are_read(tmp_path: Path, prefix: str, with_buffers: bool) -> None:
    source = make_network()
    randomize(source).attn_mask_probs.zero_()
    state = {name.replace("network.", prefix): value for name, value in official(source).items()}
    if not with_buffers:
        state = {name: v for name, v in state.items() if "criterion" not in name and "attn_mask" not in name}
    network = make_network(pretrained=write(state, tmp_path))
    assert_equal_answers(network, source)
    assert loaded_names(network) == set(network.state_dict())


def test_official_deltas_of_dinov3_are_added_to_the_backbone(tmp_path: Path) -> None:
    trained, base = make_transformers("dinov3"), make_transformers("dinov3")
    randomize(base, seed=7)
    trained.attn_mask_probs.zero_()
    expected = make_network("dinov3", pretrained=save(trained, tmp_path / "trained"))
    plain = DINOv3ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=NUM_HEADS,
        intermediate_size=4 * WIDTH,
        num_register_tokens=4,
    )
    backbone = DINOv3ViTModel(plain)
    names = {"layers.": "model.layer.", "layernorm.": "norm."}
    for theirs, value in base.state_dict().items():
        name = theirs
        for old, new in names.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        if name in backbone.state_dict():
            backbone.state_dict()[name].copy_(value)
    backbone.save_pretrained(tmp_path / "backbone")

    absolute, before = official(expected, trained), official(expected, base)
    inside = ("network.encoder.", "network.attn_mask")
    changes = {name: value - before[name] if name.startswith(inside) else value for name, value in absolute.items()}
    changes["network.attn_mask_probs"] = torch.full_like(trained.attn_mask_probs, -1)  # from 1 to 0
    path = write(changes, tmp_path)
    encoder = make_encoder("dinov3", pretrained=str(tmp_path / "backbone"))
    network = make_network(encoder=encoder, pretrained=path)
    for found, wanted in zip(answers(network), answers(expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    # the file's are zeros
    assert network.encoder.colors == expected.encoder.colors
    with pytest.raises(UserError, match=r"holds changes to the weights of its backbone.*encoder.pretrained true"):
        make_network("dinov3", pretrained=path)
    assert_equal_answers(make_network("dinov3", pretrained=write(absolute, tmp_path)), expected)
    unknown = {name: value for name, value in absolute.items() if "encoder.pixel" not in name}
    with pytest.raises(UserError, match=r"pixel_mean', so that it cannot be told whether .* changes to them; give the"):
        make_network(encoder=encoder, pretrained=write(unknown, tmp_path))


@pytest.mark.parametrize("layout", ["own", "official"])
def test_weights_of_a_compiled_network_are_read(tmp_path: Path, layout: str) -> None:
    source = make_network()
    randomize(source)
    state = official(source) if layout == "official" else source.state_dict()
    places = ("network.", ".blocks.0.", ".blocks.1.")
    for place in places if layout == "official" else places[1:]:
        state = {name.replace(place, place + "_orig_mod."): value for name, value in state.items()}
    assert sum("_orig_mod" in name for name in state) > 20
    assert_equal_answers(make_network(pretrained=write(state, tmp_path)), source)


def test_what_is_written_in_its_own_layout_opens_bit_exact(tmp_path: Path) -> None:
    # a backbone and an image that transformers' class cannot express
    source = make_eomt().eval()
    source.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    again = make_eomt(pretrained=str(tmp_path)).eval()
    assert again.state_dict().keys() == source.state_dict().keys()
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "img_size"),
    [
        ("dinov2", (SIDE, 2 * SIDE)),
        ("dinov3", (SIDE, 2 * SIDE)),
        ("vit_small_plus_patch16_dinov3", (SIDE, SIDE)),
        ("test_vit2", (SIDE, SIDE)),
    ],
)  # not square, twice; gates; no class token
def test_what_transformers_cannot_express_is_written_in_its_own_layout(
    tmp_path: Path, kind: str, img_size: tuple[int, int]
) -> None:
    source = make_network(kind, img_size)
    randomize(source).write(tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert_equal_answers(make_network(kind, img_size, pretrained=str(tmp_path)), source)


def test_only_masks_that_transformers_applies_alike_are_written_in_its_layout(tmp_path: Path) -> None:
    network = make_network()
    for index, (probabilities, expected) in enumerate([([0.2, 0.9], [0.0, 1.0]), ([0.9, 0.2], None)]):
        network.attn_mask_probs.copy_(torch.tensor(probabilities))
        folder = tmp_path / str(index)
        folder.mkdir()
        network.write(folder)
        # it goes on with the mask of the block before where a block has none
        assert (folder / "config.json").exists() == (expected is not None)
        again = make_network(pretrained=str(folder))
        assert again.attn_mask_probs.tolist() == pytest.approx(expected or probabilities)
        assert_equal_answers(again, network)


def test_a_network_with_adapters_is_not_written(tmp_path: Path) -> None:
    network = apply_lora(make_network(), LoRAConfig(target_modules=["qkv"]))
    with pytest.raises(UserError):
        network.write(tmp_path)  # type: ignore[operator]


# ---------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("img_size", [(64, 64), (32, 64), (16, 144)])  # the last has as many patches as the file
def test_positions_are_resized_to_another_image(tmp_path: Path, img_size: tuple[int, int]) -> None:
    source = make_network()
    path = write(official(randomize(source)), tmp_path)  # type: ignore[arg-type]
    network = make_network(img_size=img_size, pretrained=path)
    image = make_batch(144)[..., : img_size[0], : img_size[1]]
    # which is what the source does itself with a batch of that size
    for found, expected in zip(answers(network, image), answers(source, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_class_head_of_another_size_is_refused_or_new(tmp_path: Path) -> None:
    model = make_transformers()
    path = save(model, tmp_path)
    message = "a class head of 5 classes, but num_classes is 3; --model.network.load_class_head false starts a new one"
    with pytest.raises(UserError, match=message):
        make_network(num_classes=3, pretrained=path)
    network = make_network(num_classes=3, pretrained=path, load_class_head=False)
    assert network.class_head.out_features == 4
    assert torch.equal(network.q.weight, model.query.weight)
    assert {name for name in network.state_dict() if name not in loaded_names(network)} == {
        "class_head.weight",
        "class_head.bias",
    }
    # nobody has to say that it is to be trained
    apply_lora(network, LoRAConfig(target_modules=["qkv"], freeze_base_model=True))
    assert network.class_head.weight.requires_grad
    assert not network.q.weight.requires_grad


def test_a_file_without_class_head_needs_a_new_one(tmp_path: Path) -> None:
    source = make_network()
    state = {name: value for name, value in official(source).items() if "class_head" not in name}
    path = write(state, tmp_path)
    with pytest.raises(UserError, match=r"holds no class head; --model.network.load_class_head false"):
        make_network(pretrained=path)
    network = make_network(pretrained=path, load_class_head=False)
    assert torch.equal(network.upscale[0].conv1.weight, source.upscale[0].conv1.weight)
    assert classes_in(path) is None


@pytest.mark.parametrize("layout", ["own", "official", "hugging face"])
def test_the_number_of_classes_is_known_without_a_network(tmp_path: Path, layout: str) -> None:
    if layout == "own":
        make_eomt(7).write(tmp_path)
        assert classes_in(str(tmp_path)) == 7
    elif layout == "official":
        assert classes_in(write(official(make_network()), tmp_path)) == NUM_CLASSES
    else:
        assert classes_in(save(make_transformers(), tmp_path)) == NUM_CLASSES
    assert classes_in(str(tmp_path / "nowhere")) is None


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_q": 9}, "num_q: 9, but .* has 6; give --model.network.num_q 6"),
        ({"num_blocks": 3}, "num_blocks: 3, but .* has 2; give --model.network.num_blocks 2"),
    ],
)
@pytest.mark.parametrize("layout", ["official", "hugging face"])
def test_other_numbers_of_queries_and_blocks_are_refused(
    tmp_path: Path, layout: str, arguments: dict, message: str
) -> None:
    path = write(official(make_network()), tmp_path) if layout == "official" else save(make_transformers(), tmp_path)
    with pytest.raises(UserError, match=message):
        make_network(**{"pretrained": path} | arguments)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dinov3", "its backbone has 3 blocks of width 64, patches of 16, 4 registers and learned positions, but"),
        ("vit_small_patch14_dinov2", "4 registers .* but vit_small_patch14_dinov2 has .* 0 registers"),
    ],
)
def test_weights_of_another_backbone_are_refused_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make_network(kind, pretrained=save(make_transformers("dinov2"), tmp_path))
    assert "\n" not in str(caught.value)


def test_another_patch_size_is_refused(tmp_path: Path) -> None:
    encoder = make_encoder("dinov2", (42, 42), patch_size=14)
    with pytest.raises(UserError, match=r"patches of 16, .* patches of 14.*patch_size"):
        make_network(encoder=encoder, pretrained=save(make_transformers("dinov2"), tmp_path))


@pytest.mark.parametrize("layout", ["official", "hugging face"])
def test_another_number_of_upscale_blocks_is_refused_by_name(tmp_path: Path, layout: str) -> None:
    # the official code rounds the logarithm of 14 down
    if layout == "official":
        state = {name: v for name, v in official(make_network()).items() if "upscale.1." not in name}
        path = write(state, tmp_path)
    else:
        path = save(make_transformers(num_upscale_blocks=1), tmp_path)
    message = r"num_upscale_blocks 1, but patches of 14 take 2 here; give .* --model.network.encoder.patch_size 16"
    with pytest.raises(UserError, match=message):
        make_network(encoder=make_encoder("dinov2", (42, 42), patch_size=14), pretrained=path)


def test_biases_that_are_not_zero_need_the_backbone_that_has_them(tmp_path: Path) -> None:
    model = make_transformers("dinov3")
    with pytest.raises(UserError, match="q_bias' is not zero; choose the backbone_name that ends in _qkvb"):
        make_network("vit_small_patch16_dinov3", pretrained=save(model, tmp_path))
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.bias", "v_proj.bias")):
            parameter.data.zero_()
    without = make_network("vit_small_patch16_dinov3", pretrained=save(model, tmp_path))
    assert_equal_answers(without, make_network("dinov3", pretrained=str(tmp_path)))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "rope_parameters",
            {"rope_theta": 10000.0},
            "rope_theta 10000.0, vit_tiny.* has 100.0; choose the backbone_name",
        ),
        ("rope_theta", 10000, "rope_theta 10000, vit_tiny.* has 100.0"),
        ("model_type", "dinov2", "model_type 'dinov2'; must be eomt or eomt_dinov3"),
        ("hidden_act", "silu", "hidden_act 'silu'"),
        ("num_attention_heads", 4, "4 attention heads, .* has 2"),
    ],
)
def test_a_configuration_of_another_model_is_refused(tmp_path: Path, field: str, value: object, message: str) -> None:
    save(make_transformers("dinov3"), tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields = fields | {field: value} if field != "rope_theta" else fields | {"rope_parameters": None, field: value}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match=message):
            make_network("dinov3", pretrained=str(path))


def test_what_is_no_eomt_is_refused(tmp_path: Path) -> None:
    save_file(make_encoder().backbone.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks 'q.weight', so it is no EoMT.*encoder.pretrained"):
        make_network(pretrained=str(tmp_path))
    with pytest.raises(UserError, match="is no file or folder"):
        make_network(pretrained=str(tmp_path / "nowhere.bin"))
    state = official(make_network())
    with pytest.raises(UserError, match=r"lacks 'encoder.backbone.norm.bias'"):
        make_network(
            pretrained=write({n: v for n, v in state.items() if not n.endswith("backbone.norm.bias")}, tmp_path)
        )
    with pytest.raises(UserError, match=r"holds 'decoder.weight', which this network has not"):
        make_network(pretrained=write(state | {"network.decoder.weight": torch.zeros(1)}, tmp_path))


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"network.q.weight": nn.Linear(2, 2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read as plain tensors"):
        make_network(pretrained=str(tmp_path))
