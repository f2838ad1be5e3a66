"""A patch embedding of more than three channels: made of three, loaded, adapted, merged and written."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import load_adapter, save_adapter
from eomt.models import EoMT, ImageClassifier, ViT
from eomt.models.network import Network
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.weights.colors import IMAGENET_COLORS
from eomt.verification.audit import audit, random_names
from eomt.verification.merging import merged_copy
from tests.tiny_classification import enlarge, make_vit

CHANNELS = 5


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """Weights of an encoder of three channels."""
    (tmp_path / "colors").mkdir()
    encoder = enlarge(make_vit())
    assert isinstance(encoder, ViT)
    save_file(encoder.backbone.state_dict(), tmp_path / "colors" / "model.safetensors")
    return tmp_path / "colors"


def images(channels: int = CHANNELS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, channels, 16, 16), dtype=torch.uint8, generator=generator)


def networks(encoder: ViT) -> list[Network]:
    torch.manual_seed(1)
    return [ImageClassifier(encoder, 3), EoMT(encoder, 3, num_q=4, num_blocks=2, masked_attn_enabled=False)]


def answers(network: Network, image: torch.Tensor) -> torch.Tensor:
    found: Any = network.eval()(image)
    return found if isinstance(found, torch.Tensor) else torch.cat([part.flatten(1) for part in found[-1]], 1)


@pytest.mark.parametrize("channels", [4, 5, 6, 9])
def test_weights_of_three_colors_are_repeated_as_timm_does(colors: Path, channels: int) -> None:
    own = make_vit(pretrained=str(colors)).backbone.patch_embed.proj.weight
    made = make_vit(pretrained=str(colors), in_chans=channels)
    found = made.backbone.patch_embed.proj.weight
    for channel in range(channels):
        torch.testing.assert_close(found[:, channel], own[:, channel % 3] * 3 / channels)
    # timm itself, on the same file
    theirs = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"file": str(colors / "model.safetensors")},
        in_chans=channels, img_size=(16, 16), patch_size=8, num_classes=0, dynamic_img_size=True,
    )  # fmt: skip
    torch.testing.assert_close(found, theirs.patch_embed.proj.weight)


def test_each_channel_is_normalized_as_the_color_that_it_is_made_of() -> None:
    normalize = PixelNormalization(channels=CHANNELS)
    (red, green, blue), deviations = IMAGENET_COLORS
    torch.testing.assert_close(normalize.mean.flatten(), torch.tensor([red, green, blue, red, green]))
    torch.testing.assert_close(normalize.std.flatten(), torch.tensor([*deviations, *deviations[:2]]))
    torch.testing.assert_close(torch.tensor(normalize.colors), torch.tensor(IMAGENET_COLORS))
    normalize.set_colors((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    torch.testing.assert_close(normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2]))
    torch.testing.assert_close(normalize.std.flatten(), torch.tensor([0.4, 0.5, 0.6, 0.4, 0.5]))
    assert make_vit(in_chans=CHANNELS).normalize.mean.shape == (1, CHANNELS, 1, 1)


def test_an_image_whose_channels_repeat_its_colors_has_the_tokens_of_three(colors: Path) -> None:
    three, six = make_vit(pretrained=str(colors)).eval(), make_vit(pretrained=str(colors), in_chans=6).eval()
    image = images(3)
    torch.testing.assert_close(six.tokens(image.repeat(1, 2, 1, 1)), three.tokens(image), rtol=1e-4, atol=1e-4)


def test_what_is_made_of_loaded_colors_counts_as_loaded_and_is_said(colors: Path) -> None:
    for network in networks(make_vit(pretrained=str(colors), in_chans=CHANNELS)):
        assert not [name for name in random_names(network) if "patch_embed" in name]
        (note,) = network.loading_notes
        assert "loaded for three, and are adapted: 0, 1, 2 of red, green, blue, 3 of red, 4 of green" in note
    assert not make_vit(pretrained=str(colors)).loading_notes
    # transformers' processors know images of three channels
    with pytest.raises(UserError, match="in_chans: 5, and its processors know images of three channels"):
        ImageClassifier(make_vit(in_chans=CHANNELS), 3).write_hugging_face(colors)
    random = make_vit(in_chans=CHANNELS)
    assert not random.loading_notes
    assert "encoder.backbone.patch_embed.proj.weight" in random_names(ImageClassifier(random, 3).requires_grad_(False))


def test_weights_of_as_many_channels_are_taken_as_they_are(colors: Path, tmp_path: Path) -> None:
    first = make_vit(pretrained=str(colors), in_chans=CHANNELS)
    (tmp_path / "five").mkdir()
    save_file(first.backbone.state_dict(), tmp_path / "five" / "model.safetensors")
    again = make_vit(pretrained=str(tmp_path / "five"), in_chans=CHANNELS)
    assert torch.equal(again.tokens(images()), first.tokens(images()))
    assert not again.loading_notes
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight' has shape \[64, 5, 8, 8\].* \[64, 4, 8, 8\]"):
        make_vit(pretrained=str(tmp_path / "five"), in_chans=4)


@pytest.mark.parametrize("kind", [ImageClassifier, EoMT])
@pytest.mark.parametrize("backend", ["native", "peft"])
def test_adapters_are_learned_saved_and_merged(colors: Path, tmp_path: Path, kind: type[Network], backend: Any) -> None:
    def made() -> Network:
        encoder = make_vit(pretrained=str(colors), in_chans=CHANNELS)
        return next(network for network in networks(encoder) if isinstance(network, kind))

    plain, network = made(), made()
    targets = ["attention", "patch_embed.proj"]
    heads = ["classifier"] if kind is ImageClassifier else ["q", "class_head", "mask_head", "upscale"]
    config = LoRAConfig(
        rank=2, target_modules=targets, freeze_base_model=True, trainable_modules=heads, backend=backend,
    )  # fmt: skip
    apply_lora(network, config)
    # a network's answers are no loss; their squares are
    report = audit(network, images(), lambda module, batch: answers(module, batch).square().mean())
    report.require()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05)
    expected = answers(network, images())
    assert not torch.allclose(expected, answers(plain, images()), atol=1e-3)
    folder = save_adapter(network, tmp_path / "adapter", "base")
    torch.testing.assert_close(answers(load_adapter(plain, folder), images()), expected)
    merged, _, difference = merged_copy(network, images(), answers)
    assert difference < 1e-4
    (tmp_path / "merged").mkdir()
    merged.write(tmp_path / "merged")
    # transformers' processors know images of three channels
    assert not (tmp_path / "merged" / "config.json").exists()
    assert merged.in_chans == CHANNELS


def test_images_of_another_number_of_channels_and_impossible_numbers_are_refused(colors: Path) -> None:
    network = ImageClassifier(make_vit(pretrained=str(colors), in_chans=CHANNELS), 3)
    with pytest.raises(UserError, match=r"image: 3 channels, but the network takes 5; see data\.channels"):
        network(images(3))
    with pytest.raises(UserError, match="in_chans: 2; must be at least 3: one band is shown in gray"):
        make_vit(in_chans=2)


def test_weights_that_timm_adapts_itself_are_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    create = ViT._create
    # as if the hub had been asked
    monkeypatch.setattr(ViT, "_create", lambda self, from_hub, **arguments: create(self, False, **arguments))
    assert "takes 5 channels" in make_vit(pretrained=True, in_chans=CHANNELS).loading_notes[0]
    assert not make_vit(pretrained=True).loading_notes
