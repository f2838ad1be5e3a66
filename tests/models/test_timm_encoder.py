"""Any timm model as encoder of a classifier."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import eomt
from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.layers import lora_layers, merge_lora_weights
from eomt.models import ImageClassifier, TimmEncoder
from eomt.verification.audit import audit

SIZE = (64, 64)
# convolutional networks with and without batch normalization, one with a wider last layer, and a transformer with maps
MODELS = {
    "test_convnext": ["mlp"],
    "test_resnet": ["conv1", "conv2"],
    "test_efficientnet": ["re:.*conv_pw"],
    "mobilenetv3_small_050": ["re:.*conv_pwl?"],
    "test_vit": ["attention", "mlp"],
}


def images(count: int = 2, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=random)


def make(name: str, **arguments: Any) -> ImageClassifier:
    torch.manual_seed(0)
    encoder = TimmEncoder(name, SIZE, **({"pretrained": False} | arguments))
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # timm begins with residual branches that give zero
            torch.nn.init.ones_(module.weight)
    return ImageClassifier(encoder, 3)


@pytest.mark.parametrize("name", MODELS)
def test_the_first_token_is_what_timm_would_classify(name: str) -> None:
    network = make(name).eval()
    encoder = network.encoder
    assert isinstance(encoder, TimmEncoder)
    pixels = encoder.normalize(images())
    with torch.no_grad():
        torch.testing.assert_close(encoder(images()), encoder.model(pixels))
        tokens = encoder.tokens(images())
    assert tokens.shape[2] == encoder.embed_dim
    assert tokens.shape[1] == (1 + (64 // encoder.patch_size) ** 2 if encoder.has_places else 1)


@pytest.mark.parametrize(("name", "targets"), MODELS.items())
def test_adapters_learn_are_audited_and_merge(name: str, targets: list[str], tmp_path: Path) -> None:
    network = make(name)
    encoder: Any = network.encoder
    statistics = {k: v.clone() for k, v in encoder.model.state_dict().items() if "running_" in k}
    apply_lora(network, LoRAConfig(rank=2, target_modules=targets, freeze_base_model=True, lora_dropout=0.0))
    batch = {"image": images(4), "label": torch.tensor([0, 1, 2, 0])}

    def loss(model: Any, given: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(model(given["image"]), given["label"])

    audit(network, batch, loss, outputs=lambda model, given: model(given["image"]), allow_random_base=True).require()
    network.train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        loss(network, batch).backward()
        optimizer.step()
    # batch normalization that is frozen keeps what it knows
    for key, value in encoder.model.state_dict().items():
        if "running_" in key:
            assert torch.equal(value, statistics[key.replace(".base_layer", "")]), key
    network.eval()
    with torch.no_grad():
        before = network(images())
        eomt.save_adapter(network, tmp_path / "adapter")
        again = eomt.load_adapter(make(name), tmp_path / "adapter").eval()
        torch.testing.assert_close(again(images()), before)
        merged = merge_lora_weights(network)
        torch.testing.assert_close(merged(images()), before, rtol=1e-4, atol=1e-5)
    assert not lora_layers(merged)


def test_full_fine_tuning_follows_the_statistics_of_its_images() -> None:
    network = make("test_resnet").train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running_mean" in k}
    network(images())
    assert any(not torch.equal(network.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_weights_in_timms_layout_are_read_with_their_classifier_or_without(name: str, tmp_path: Path) -> None:
    import timm

    whole = timm.create_model(name, num_classes=7)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    encoder = TimmEncoder(name, SIZE, pretrained=tmp_path).eval()
    pixels = encoder.normalize(images())
    with torch.no_grad():
        expected = whole.eval().forward_head(whole.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(encoder(images()), expected)
    assert str(tmp_path) in encoder.base


def test_depths_rise_towards_the_classifier() -> None:
    network = make("test_convnext")
    depth = {name: network.depth_of(name) for name, _ in network.named_parameters()}
    assert depth["encoder.model.stem.0.weight"] == 0
    assert depth["classifier.weight"] is None
    stages = [depth[f"encoder.model.stages.{stage}.blocks.0.mlp.fc1.weight"] for stage in range(3)]
    assert stages == sorted(set(stages))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone_name": "convnext_tinny"}, "'convnext_tinny' is no timm model; nearest: convnext_tiny"),
        (
            {"backbone_name": "swin_tiny_patch4_window7_224", "img_size": (3, 3)},
            r"img_size: .* (does not take|takes others)",
        ),
        ({"img_size": (0, 4)}, "img_size: "),
        ({"pretrained": "nowhere/at_all/here"}, "nowhere.at_all.here"),
    ],
)
def test_what_timm_cannot_is_refused_in_a_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TimmEncoder(**({"backbone_name": "test_convnext", "img_size": SIZE, "pretrained": False} | arguments))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"x.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="no names of this timm model"):
        TimmEncoder("test_convnext", SIZE, pretrained=tmp_path)


def test_a_model_without_places_has_no_mean_of_them() -> None:
    encoder = TimmEncoder("mobilenetv3_small_050", SIZE, pretrained=False)
    assert not encoder.has_places
    with pytest.raises(UserError, match="gives what it pools alone; give cls"):
        ImageClassifier(encoder, 3, pooling="cls+mean")
