"""Classifiers pool as they say, keep what is frozen, and answer in transformers as they do here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F
from transformers import AutoImageProcessor, AutoModelForImageClassification

from datamodules.classification.transforms import shown
from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models import EoMT, ImageClassifier
from eomt.models.frozen_features import FeatureCache
from tests.tiny_classification import SIDE, enlarge, make_classifier, make_images, make_vit
from tests.tiny_morph import make_encoder

SHARED = Path(__file__).parents[3] / "shared"
REAL, PHOTOS = SHARED / "weights" / "dinov2-small", SHARED / "data" / "nuclei" / "val" / "images"
DINOV2 = "vit_small_patch14_dinov2"


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_the_classifier_sees_what_pooling_says(pooling: Any) -> None:
    network = make_classifier(pooling=pooling).eval()
    enlarge(network)
    image = make_images()
    tokens = network.encoder.backbone.forward_features(network.encoder.normalize(image))
    parts = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1)}
    expected = torch.cat([parts[name] for name in pooling.split("+")], 1)
    torch.testing.assert_close(network.features(image), expected)
    torch.testing.assert_close(network(image), network.classifier(expected))
    torch.testing.assert_close(network.scores(image), network(image).softmax(1))


def test_registers_are_no_patches() -> None:
    encoder = make_vit(backbone_name="vit_small_patch14_reg4_dinov2", img_size=(28, 28), patch_size=14)
    network = ImageClassifier(encoder, 3, pooling="mean").eval()
    tokens = encoder.tokens(make_images(1, 28, 28))
    assert tokens.shape[1] == 1 + 4 + 4
    torch.testing.assert_close(network.features(make_images(1, 28, 28)), tokens[:, 5:].mean(1))


def test_several_labels_have_probabilities_of_their_own() -> None:
    network = make_classifier(multi_label=True).eval()
    torch.testing.assert_close(network.scores(make_images()), network(make_images()).sigmoid())


def test_a_frozen_encoder_is_computed_once_and_its_pooled_features_alone_are_kept() -> None:
    network = make_classifier(pooling="mean")
    apply_lora(network, LoRAConfig(enabled=False, freeze_base_model=True))
    network.feature_cache = network.encoder.feature_cache = FeatureCache(1.0)
    image = make_images(3)
    first = network(image)
    assert len(network.feature_cache) == 3
    (size,) = network.feature_cache.bytes_of_parts().values()
    assert size == 4 * network.feature_dim
    network.encoder.backbone.forward_features = None
    torch.testing.assert_close(network(image), first)
    assert (network.feature_cache.asked, network.feature_cache.found) == (6, 3)
    first.sum().backward()
    assert network.classifier.weight.grad is not None


def test_adapters_of_the_last_block_leave_the_others_kept() -> None:
    network = make_classifier()
    apply_lora(network, LoRAConfig(rank=2, target_modules=["attention"], layers="last:1", freeze_base_model=True))
    network.feature_cache = network.encoder.feature_cache = FeatureCache(1.0)
    network(make_images(2)).sum().backward()
    assert set(network.feature_cache.bytes_of_parts()) == {"first 5 blocks"}


def test_layers_are_those_of_the_encoder() -> None:
    for network in (make_classifier(), make_classifier(encoder=make_encoder())):
        depths = {name: network.depth_of(name) for name, _ in network.named_parameters()}
        assert {name for name, depth in depths.items() if depth is None} == {"classifier.weight", "classifier.bias"}
        last = max(depth for depth in depths.values() if depth is not None)
        assert {depth for depth in depths.values() if depth is not None} == set(range(last + 1))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_classes": None}, "num_classes: None"),
        ({"num_classes": 1}, "nothing to choose between"),
        ({"pooling": "max"}, "pooling: 'max'; must be cls, mean or cls"),
        ({"head": "tree"}, "head: 'tree'; must be linear, mlp or cosine"),
        ({"pretrained": True}, "pretrained: true"),
    ],
)
def test_impossible_values_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_classifier(**arguments)


def test_what_returns_no_tokens_is_no_encoder() -> None:
    with pytest.raises(UserError, match=r"encoder: EoMT; must be an eomt\.models\.ViT, MAEEncoder or TimmEncoder"):
        ImageClassifier(EoMT(make_vit(), 3, num_q=4, num_blocks=1), 3)  # type: ignore[arg-type]


# -- files -----------------------------------------------------------------------------------------------------------


def photo(height: int = 37, width: int = 52) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def in_transformers(folder: Path, image: Image.Image) -> torch.Tensor:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**AutoImageProcessor.from_pretrained(folder)(images=image, return_tensors="pt")).logits


def here(network: ImageClassifier, image: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        return network(shown(F.pil_to_tensor(image), network.img_size)[None])


@pytest.mark.parametrize(
    ("backbone", "pooling"),
    [("test_vit", "cls"), *((DINOV2, pooling) for pooling in ("mean", "cls+mean"))],
)
def test_transformers_answers_a_photo_alike_and_the_folder_opens_again(
    backbone: str, pooling: Any, tmp_path: Path
) -> None:
    side, patch = (SIDE, 8) if backbone == "test_vit" else (28, 14)
    sizes: dict[str, Any] = {"backbone_name": backbone, "img_size": (side, side), "patch_size": patch}
    network = make_classifier(encoder=make_vit(**sizes), pooling=pooling).eval()
    enlarge(network.classifier)
    network.class_names = ["ape", "bee", "cat"]
    network.write(tmp_path)
    assert ImageClassifier.opens(tmp_path)
    expected = here(network, photo())
    torch.testing.assert_close(in_transformers(tmp_path, photo()), expected, atol=1e-5, rtol=1e-5)
    opened = make_classifier(encoder=make_vit(**sizes), pooling=pooling, pretrained=tmp_path).eval()
    torch.testing.assert_close(here(opened, photo()), expected, atol=0, rtol=0)
    assert opened.class_names == ["ape", "bee", "cat"]
    assert ImageClassifier.classes_of({"pretrained": str(tmp_path)}) == 3
    # what a file fills is not new, and an audit may find it frozen
    assert (opened.new_modules, network.new_modules) == ((), ("classifier",))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL.is_dir() and PHOTOS.is_dir()), reason="the shared weights or images are not here")
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_real_weights_answer_photographs_alike_in_transformers(pooling: Any, tmp_path: Path) -> None:
    encoder = make_vit(backbone_name=DINOV2, img_size=(56, 56), patch_size=14, pretrained=str(REAL))
    network = make_classifier(encoder=encoder, pooling=pooling).eval()
    network.write_hugging_face(tmp_path)
    photographs = [Image.open(file).convert("RGB") for file in sorted(PHOTOS.iterdir())[:3]]
    for image in (*photographs, photographs[0].resize((157, 90)), photographs[0].resize((30, 31))):
        found, expected = in_transformers(tmp_path, image), here(network, image)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_a_masked_autoencoders_encoder_is_a_vit_in_transformers(tmp_path: Path) -> None:
    network = make_classifier(encoder=make_encoder()).eval()
    enlarge(network.classifier)
    network.write(tmp_path)
    torch.testing.assert_close(in_transformers(tmp_path, photo()), here(network, photo()), atol=1e-5, rtol=1e-5)
    opened = make_classifier(encoder=make_encoder(), pretrained=tmp_path).eval()
    torch.testing.assert_close(here(opened, photo()), here(network, photo()), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_classifier(head="mlp"), "head: mlp, and its classifiers are linear"),
        (lambda: make_classifier(head="cosine"), "head: cosine"),
        (lambda: make_classifier(pooling="mean"), "pooling: mean, and its ViT gives the class token alone"),
        (lambda: make_classifier(encoder=make_encoder(), pooling="cls+mean"), r"pooling: cls\+mean"),
        (lambda: make_classifier(encoder=make_vit(img_size=(16, 32))), r"img_size: \[16, 32\], and its images"),
    ],
)
def test_what_transformers_cannot_say_is_refused_there_and_written_as_it_is(
    make: Any, said: str, tmp_path: Path
) -> None:
    network = make()
    with pytest.raises(UserError, match=said):
        network.write_hugging_face(tmp_path)
    assert not any(tmp_path.iterdir())
    network.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert not ImageClassifier.opens(tmp_path)


def test_a_classifier_of_others_is_refused_in_words(tmp_path: Path) -> None:
    make_classifier(4).write(tmp_path)
    with pytest.raises(UserError, match=r"give it to the encoder: --model\.network\.encoder\.pretrained"):
        make_classifier(3, pretrained=tmp_path)
    # and so it opens
    make_vit(pretrained=str(tmp_path))
    with pytest.raises(UserError, match=r"give --model\.network\.pooling cls"):
        make_classifier(4, pooling="mean", pretrained=tmp_path)
    with pytest.raises(UserError, match="must hold a linear classifier"):
        make_classifier(4, head="mlp", pretrained=tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        make_classifier(4, pretrained=tmp_path)
