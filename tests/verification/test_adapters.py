"""Dead adapters, and adapters that merging would change, are found in any network, without a list of names."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock, SwinTransformerBlockV2
from transformers import WavLMConfig, WavLMModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerMLPPredictionHead
from transformers.models.maskformer.modeling_maskformer import MaskformerMLPPredictionHead

import eomt
from eomt.errors import UserError
from eomt.lora import LoRAConfig, apply_lora, load_adapter, merge_lora_weights, save_adapter, supported_layers
from eomt.lora.adapter_layer import lora_layers
from eomt.verification.audit import call
from tests.lora.adapters import both


def swin(block: type[nn.Module]) -> nn.Module:
    return SwinTransformer([2, 2], 8, [1, 1], [2, 2], [2, 2], num_classes=3, block=block)


def wavlm() -> nn.Module:
    config = WavLMConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8,),
        conv_stride=(8,),
        conv_kernel=(8,),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        layerdrop=0.0,
    )
    return WavLMModel(config)


def image() -> Tensor:
    return torch.rand(2, 3, 16, 16)


# name -> how the network is made, its targets, an input, a part of the refusal
BYPASSING: dict[str, tuple[Any, str, Any, str]] = {
    "swin": (lambda: swin(SwinTransformerBlock), "qkv", image, "reads the weight of"),
    "swin v2": (lambda: swin(SwinTransformerBlockV2), "proj", image, "reads the weight of"),
    "wavlm": (wavlm, "q_proj", lambda: torch.rand(1, 400), "reads the weight of"),
    "maskformer": (lambda: MaskformerMLPPredictionHead(4, 4, 4), "0", lambda: torch.rand(2, 4), "a plain list"),
    "mask2former": (lambda: Mask2FormerMLPPredictionHead(4, 4, 4), "0", lambda: torch.rand(2, 4), "a plain list"),
}
bypassing = pytest.mark.parametrize(("make", "target", "batch", "reason"), BYPASSING.values(), ids=BYPASSING.keys())


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what is known of networks by name."""
    monkeypatch.setattr(supported_layers, "bypass_reason", lambda modules, path: None)


def config(target: str, **arguments: Any) -> LoRAConfig:
    return LoRAConfig(rank=2, target_modules=[target], freeze_base_model=True, **arguments)


@bypassing
def test_an_adapter_that_would_be_bypassed_is_refused_at_once(make: Any, target: str, batch: Any, reason: str) -> None:
    """16.15: networks known to read weights, and layers that a plain list holds, are refused by name."""
    with pytest.raises(UserError, match=reason) as error:
        apply_lora(make(), config(target))
    assert len(str(error.value)) < 300


@both
@bypassing
@pytest.mark.usefixtures("unlisted")
def test_a_probe_finds_it_without_a_list(make: Any, target: str, batch: Any, reason: str, backend: Any) -> None:
    """16.15: on one batch, an adapter without effect is named, whatever the network is."""
    model = apply_lora(make(), config(target, backend=backend))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"check_adapters: '.*' is never called in evaluation") as error:
        eomt.check_adapters(model, batch())
    assert next(iter(lora_layers(model))) in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@bypassing
@pytest.mark.usefixtures("unlisted")
def test_the_audit_finds_it_without_a_list(make: Any, target: str, batch: Any, reason: str) -> None:
    """16.15: the audit sees what the probe sees."""
    # not frozen: else the loss would depend on nothing, and the audit would end there
    model = apply_lora(make(), LoRAConfig(rank=2, target_modules=[target]))
    report = eomt.audit(model, batch(), lambda net, x: call(net, x).square().mean(), allow_random_base=True)
    assert "is never called in training" in str(report)


@both
@bypassing
@pytest.mark.usefixtures("unlisted")
def test_saving_and_merging_refuse_an_adapter_that_never_ran(
    make: Any, target: str, batch: Any, reason: str, backend: Any, tmp_path: Path
) -> None:
    """16.15: without a batch too, once the network ran."""
    model = apply_lora(make(), config(target, backend=backend))
    # nothing is known before the network runs
    save_adapter(model, tmp_path / "fresh")
    model(batch())
    for function in (merge_lora_weights, lambda model: save_adapter(model, tmp_path / "adapter")):
        with pytest.raises(UserError, match="never called though the network ran") as error:
            function(model)
        assert len(str(error.value)) < 300
    assert not (tmp_path / "adapter").exists()
    # an hour of training is not lost for one dead adapter
    save_adapter(model, tmp_path / "adapter", check_called=False)


class ReadsToo(nn.Module):
    """Calls a layer, and reads its weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(x) + F.linear(self.inside(x), self.inside.weight)


@both
def test_a_probe_names_the_layer_that_merging_would_change(backend: Any) -> None:
    """16.15: an adapter that acts, but whose merged weight acts twice."""
    torch.manual_seed(0)
    model = apply_lora(ReadsToo(), config("all-linear", backend=backend))
    with pytest.raises(UserError, match=r"check_adapters: merged, 'inside' changes the answers") as error:
        eomt.check_adapters(model, torch.rand(3, 4))
    assert len(str(error.value)) < 300


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_adapters_pass_and_stay_as_they_were(backend: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    """16.15: a loaded adapter of which nothing is trained passes, saves and merges; no trace is left."""
    torch.manual_seed(0)
    plain = Plain().to(dtype)
    model = apply_lora(copy.deepcopy(plain), config("body", backend=backend))
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(copy.deepcopy(plain), tmp_path / "adapter").requires_grad_(False)
    eomt.check_adapters(loaded, torch.rand(3, 4, dtype=dtype))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not any(layer.lora_b.any() for layer in lora_layers(loaded).values())
    merged = merge_lora_weights(loaded)
    assert not merged._forward_hooks
    assert "was_called" not in vars(merged)


def test_a_probe_of_a_plain_model_is_refused() -> None:
    """16.15: nothing to probe is no success."""
    with pytest.raises(UserError, match="holds no adapters"):
        eomt.check_adapters(Plain(), torch.rand(3, 4))
