"""Adapters are named as in the timm or Hugging Face model inside a network, so that plain PEFT opens them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eomt.lora.adapter_layer import lora_layers
from eomt.lora.files import load_adapter, save_adapter
from eomt.models import EoMT, ViT
from tests.lora.adapters import adapted, answer, assert_same, base, both

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# -- names of the model inside ---------------------------------------------------------------------------------------


@both
def test_an_adapter_of_a_wrapper_opens_on_the_model_inside(tmp_path: Path, backend: str) -> None:
    def encoder() -> ViT:
        return base().encoder

    model = adapted(encoder(), target_modules=["attention", "mlp"], backend=backend)
    folder = save_adapter(model, tmp_path / "adapter")
    image = torch.rand(2, 3, 32, 48, dtype=torch.double)

    def features(timm_model: Any) -> Tensor:
        with torch.no_grad():
            return timm_model.forward_features(image) if hasattr(timm_model, "forward_features") else timm_model(image)

    expected = features(model.backbone)
    opened = peft.PeftModel.from_pretrained(encoder().backbone, folder).eval()
    assert_same(features(opened.base_model.model), expected)
    assert not torch.allclose(features(encoder().backbone), expected, atol=1e-3)
    # and here: on the wrapper, on the model inside, and on a network that holds it
    for network in (encoder(), encoder().backbone, base()):
        load_adapter(network, folder)
        inside = network.encoder.backbone if isinstance(network, EoMT) else getattr(network, "backbone", network)
        assert_same(features(inside.eval()), expected)


@both
def test_an_adapter_of_a_larger_network_holds_one_for_the_model_inside(tmp_path: Path, backend: str) -> None:
    model = adapted(target_modules=["attention", "mask_head"], trainable_modules=["class_head"], backend=backend)
    folder = save_adapter(model, tmp_path / "adapter")
    inner = base().encoder.backbone
    opened = peft.PeftModel.from_pretrained(inner, folder / "encoder.backbone").eval()
    image = torch.rand(2, 3, 32, 48, dtype=torch.double)
    with torch.no_grad():
        expected = model.encoder.backbone.forward_features(image)
        found = opened.base_model.model.forward_features(image)
    assert_same(found, expected)
    whole = peft.PeftModel.from_pretrained(base(), folder).eval()
    assert_same(answer(whole), answer(model))


def test_an_adapter_that_peft_made_of_the_model_inside_loads(tmp_path: Path) -> None:
    inner = peft.get_peft_model(base().encoder.backbone, peft.LoraConfig(r=4, target_modules=["qkv"]))
    for name, parameter in inner.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    inner.eval().save_pretrained(tmp_path / "adapter")
    network = load_adapter(base(), tmp_path / "adapter").eval()
    image = torch.rand(1, 3, 32, 48, dtype=torch.double)
    with torch.no_grad():
        expected = inner.base_model.model.forward_features(image)
        found = network.encoder.backbone.forward_features(image)
    assert_same(found, expected)
    assert all(path.startswith("encoder.backbone.") for path in lora_layers(network))
