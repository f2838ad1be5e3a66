"""What goes with an EoMT's weights and no tensor tells: normalization, norms' epsilon, grid, names of classes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, EomtImageProcessor, EomtImageProcessorPil

from eomt.errors import UserError
from eomt.models import EoMT
from tests.models.weights.eomt_pairs import (
    NUM_CLASSES,
    SIDE,
    make_batch,
    make_network,
    make_transformers,
    normalized,
    official,
    randomize,
    save,
)

COLORS = ((0.25, 0.125, 0.5), (0.5, 0.25, 0.375))
LEFT_TO_TIMM = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def answers(network: EoMT, image: Tensor | None = None) -> list[Tensor]:
    with torch.no_grad():
        return list(network.eval()(make_batch() if image is None else image)[-1])


def assert_equal_answers(one: EoMT, other: EoMT, image: Tensor | None = None) -> None:
    for found, expected in zip(answers(one, image), answers(other, image), strict=True):
        assert torch.equal(found, expected)


def make_odd(kind: str = "dinov2", colors: tuple = COLORS, eps: float | None = None, **arguments: object) -> EoMT:
    """With random weights, and normalization and epsilon that timm's backbone has not."""
    network = make_network(kind, **arguments)  # type: ignore[arg-type]
    randomize(network)
    for buffer, values in zip((network.encoder.normalize.mean, network.encoder.normalize.std), colors, strict=True):
        buffer.copy_(torch.tensor(values).view_as(buffer))
    for module in network.encoder.backbone.modules():
        if eps is not None and isinstance(module, torch.nn.LayerNorm):
            module.eps = eps
    return network


# ---------------------------------------------------------------------------------------------- normalization


@pytest.mark.parametrize("colors", [COLORS, LEFT_TO_TIMM])  # a mean of 0 alone is no delta
def test_official_weights_see_images_as_in_training(tmp_path: Path, colors: tuple) -> None:
    source = make_odd(colors=colors)
    torch.save(official(source), tmp_path / "pytorch_model.bin")
    network = make_network(pretrained=str(tmp_path))
    assert network.encoder.colors == colors
    assert_equal_answers(network, source)


def test_official_weights_without_usable_normalization_leave_timm_s(tmp_path: Path) -> None:
    expected = make_network().encoder.colors
    for name, change in (("pixel_std", torch.zeros(1, 3, 1, 1)), ("pixel_std", None)):
        state = official(make_odd())
        state[f"network.encoder.{name}"] = change  # type: ignore[assignment]
        torch.save({name: v for name, v in state.items() if v is not None}, tmp_path / "pytorch_model.bin")
        assert make_network(pretrained=str(tmp_path)).encoder.colors == expected


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
def test_normalization_survives_hugging_face_layout_and_its_image_processor_has_it(tmp_path: Path, kind: str) -> None:
    source = make_odd(kind)
    source.write(tmp_path)
    assert (tmp_path / "config.json").is_file()
    network = make_network(kind, pretrained=str(tmp_path))
    assert network.encoder.colors == COLORS
    assert_equal_answers(network, source)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, EomtImageProcessor | EomtImageProcessorPil)
    found = processor(list(make_batch()), return_tensors="pt")
    torch.testing.assert_close(found["pixel_values"], normalized(make_batch(), source))
    # an image that is not square: resized, in windows of the network's size
    assert processor(make_batch(2 * SIDE)[0, :, :, :70], return_tensors="pt")["pixel_values"].shape[2:] == (SIDE, SIDE)


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
@pytest.mark.parametrize("as_file", [True, False])
def test_normalization_and_epsilon_survive_its_own_layout(tmp_path: Path, kind: str, as_file: bool) -> None:
    size = (SIDE, 2 * SIDE)  # transformers' class takes none that are not square
    source = make_odd(kind, img_size=size, eps=0.02)
    source.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    path = str(tmp_path / "model.safetensors" if as_file else tmp_path)
    network = make_network(kind, img_size=size, pretrained=path)
    assert network.encoder.colors == COLORS
    image = make_batch(2 * SIDE)[..., :SIDE, :]
    assert_equal_answers(network, source, image)
    # what it has not in common with timm's is what made the answers
    assert not torch.allclose(answers(make_odd(kind, img_size=size), image)[0], answers(source, image)[0], atol=1e-3)


def test_hugging_face_s_normalization_is_that_beside_the_weights_or_timm_s(tmp_path: Path) -> None:
    path = save(make_transformers(), tmp_path)
    assert make_network(pretrained=path).encoder.colors == make_network().encoder.colors
    EomtImageProcessor(image_mean=COLORS[0], image_std=COLORS[1]).save_pretrained(tmp_path)
    for source in (path, str(tmp_path / "model.safetensors")):
        assert make_network(pretrained=source).encoder.colors == COLORS
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5], "image_std": [1, 1, 1]}))
    with pytest.raises(UserError, match=r"image_mean is \[0.5\], but must have at least 3 items"):
        make_network(pretrained=path)


# ---------------------------------------------------------------------------------------------- epsilon


@pytest.mark.parametrize("kind", ["dinov2", "dinov3"])
@pytest.mark.parametrize("as_file", [True, False])
def test_the_epsilon_of_a_configuration_is_the_networks_and_is_written_again(
    tmp_path: Path, kind: str, as_file: bool
) -> None:
    model = make_transformers(kind, layer_norm_eps=0.03).eval()
    save(model, tmp_path)
    network = make_network(kind, pretrained=str(tmp_path / "model.safetensors" if as_file else tmp_path)).eval()
    for either in (network, model):
        either.attn_mask_probs.zero_()
    with torch.no_grad():
        expected = model(normalized(make_batch(), network)).masks_queries_logits
    torch.testing.assert_close(answers(network)[0], expected, rtol=1e-4, atol=1e-4)
    for name, size in (("square", (SIDE, SIDE)), ("wide", (SIDE, 2 * SIDE))):
        # the second is in another layout
        opened = make_network(kind, img_size=size, pretrained=str(tmp_path))
        (tmp_path / name).mkdir()
        opened.write(tmp_path / name)
        again = make_network(kind, img_size=size, pretrained=str(tmp_path / name))
        assert {module.eps for module in again.encoder.modules() if hasattr(module, "eps")} == {0.03}


# ---------------------------------------------------------------------------------------------- grid


@pytest.mark.parametrize("size", [(32, 128), (64, 64), (48, 96)])
def test_positions_of_its_own_layout_are_resized_from_the_grid_that_they_are_of(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    source = make_network(img_size=(32, 128))  # as many patches as a square image has
    randomize(source).write(tmp_path)
    network = make_network(img_size=size, pretrained=str(tmp_path))
    image = make_batch(128)[..., : size[0], : size[1]]
    # which is what the source does itself with a batch of that size
    for found, expected in zip(answers(network, image), answers(source, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_official_weights_of_an_image_that_is_not_square_open_at_its_size(tmp_path: Path) -> None:
    source = make_odd(img_size=(32, 96))
    torch.save(official(source), tmp_path / "pytorch_model.bin")
    image = make_batch(96)[..., :32, :]
    assert_equal_answers(make_network(img_size=(32, 96), pretrained=str(tmp_path)), source, image)
    with pytest.raises(UserError, match="its 12 positions are of no square image"):
        make_network(img_size=(64, 64), pretrained=str(tmp_path))


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 2 * SIDE)])
def test_names_of_classes_are_written_and_read(tmp_path: Path, size: tuple[int, int]) -> None:
    network = make_network(img_size=size)
    network.class_names = ["road", "sky", "car", "tree", "sign"]
    network.write(tmp_path)
    assert make_network(img_size=size, pretrained=str(tmp_path)).class_names == network.class_names
    # a new class head may be of other classes, as many or not
    for number in (2, NUM_CLASSES):
        other = make_network(img_size=size, num_classes=number, pretrained=str(tmp_path), load_class_head=False)
        assert other.class_names is None
    if size == (SIDE, SIDE):
        fields = json.loads((tmp_path / "config.json").read_text())
        assert fields["id2label"] == {str(index): name for index, name in enumerate(network.class_names)}
        assert fields["label2id"]["car"] == 2
        assert len(fields["id2label"]) == NUM_CLASSES


@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 2 * SIDE)])
def test_equal_networks_are_equal_files(tmp_path: Path, size: tuple[int, int]) -> None:
    network = make_odd(img_size=size)
    written = []
    for index in range(8):
        (tmp_path / str(index)).mkdir()
        network.write(tmp_path / str(index))
        written.append({path.name: path.read_bytes() for path in (tmp_path / str(index)).iterdir()})
    assert all(files == written[0] for files in written)


def test_metadata_that_are_none_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    make_network(img_size=(32, 96)).write(tmp_path)
    for text in ("{", "[]", '{"img_size": 3}', '{"img_size": [1, 2], "colours": [[1], [2]]}'):
        save_file(load_file(file), file, {"eomt": text})
        with pytest.raises(UserError, match=r"its metadata: .*; copy it again") as caught:
            make_network(img_size=(32, 96), pretrained=str(tmp_path))
        assert "\n" not in str(caught.value)
