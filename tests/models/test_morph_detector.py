"""The detector: patches in order, every parameter used, the guides' counts, attention rollout, adapters for PEFT."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTMAEModel

from eomt.errors import UserError
from eomt.lora.adapter_layer import lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import load_adapter, save_adapter
from eomt.lora.layers import merge_lora_weights
from eomt.lora.summary import get_lora_stats
from eomt.losses.morph import MorphLoss
from eomt.models.mae_encoder import MAEEncoder
from eomt.models.mixstyle import MixStyle
from eomt.models.morph_detector import MorphDetector
from eomt.verification.audit import loaded_names
from tests.gradients import KEY_BIAS
from tests.tiny_morph import NUM_PATCHES, PATCH, enlarge_weights, make_detector, make_encoder, make_image, tiny_model

HEADS: list[dict[str, Any]] = [
    {},
    {"head": "mlp", "cls_hidden_dim": 8},
    {"head": "cosine", "proj_dim": 12},
    {"head": "mlp", "cls_hidden_dim": 8, "proj_dim": 12, "proj_hidden_dim": 10},
]
LABEL = torch.tensor([0, 1])


def config(**fields: Any) -> LoRAConfig:
    settings: dict[str, Any] = {"target_modules": ["query", "key", "value"], "freeze_base_model": True}
    return LoRAConfig(**(settings | {"trainable_modules": ["classifier"]} | fields))


def large(network: Any) -> Any:
    enlarge_weights(network)
    return network.eval()


def same_as(encoder: MAEEncoder) -> ViTMAEModel:
    """transformers' model with the weights of `encoder`, which masks nothing."""
    model = ViTMAEModel(encoder.model.config).eval()
    model.load_state_dict(encoder.model.state_dict())
    assert model.config.mask_ratio == 0
    return model


# -- the encoder -----------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_transformers_in_the_order_of_the_patches() -> None:
    encoder, image = large(make_encoder()), make_image()
    output = same_as(encoder)(encoder.normalize(image), noise=torch.rand(2, NUM_PATCHES))
    # transformers shuffles them
    restored = output.last_hidden_state[:, 1:].gather(1, output.ids_restore[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(encoder(image)[:, 1:], restored)
    torch.testing.assert_close(encoder(image)[:, 0], output.last_hidden_state[:, 0])
    assert torch.equal(encoder.train()(image), encoder.eval()(image))


@pytest.mark.parametrize(("height", "width"), [(48, 48), (24, 40), (64, 16), (8, 8)])
def test_images_of_another_size_are_given_interpolated_positions(height: int, width: int) -> None:
    encoder, image = large(make_encoder()), make_image(2, height, width)
    patches = height * width // PATCH**2
    noise = torch.arange(patches).expand(2, -1)
    expected = same_as(encoder)(encoder.normalize(image), noise=noise, interpolate_pos_encoding=True)
    torch.testing.assert_close(encoder(image), expected.last_hidden_state)
    assert encoder.attention_rollout(image).shape == (2, height // PATCH, width // PATCH)


@pytest.mark.parametrize(("height", "width"), [(4, 32), (32, 36), (0, 32)])
def test_images_that_are_no_multiple_of_the_patch_are_refused(height: int, width: int) -> None:
    detector = make_detector()
    for call in (detector, detector.scores, detector.attention_rollout):
        with pytest.raises(UserError, match=f"image: {height} x {width} pixels; both must be multiples of the patch"):
            call(make_image(1, height, width))


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        detector = apply_lora(make_detector(make_encoder(checkpointing=checkpointing)), config(lora_dropout=0))
        for layer in lora_layers(detector).values():
            nn.init.normal_(layer.lora_b, std=0.1)
        MorphLoss()(detector(make_image()).logits, LABEL).backward()
        gradients.append({name: p.grad for name, p in detector.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == 2 * 6 + 2
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
        assert gradient.any(), name


# -- the detector ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", HEADS)
def test_every_parameter_but_the_positions_gets_a_gradient(arguments: dict) -> None:
    detector = large(make_detector(**arguments)).train()
    MorphLoss()(detector(make_image()).logits, LABEL).backward()
    for name, parameter in detector.named_parameters():
        frozen = name in detector.frozen_modules
        assert parameter.requires_grad != frozen
        assert frozen or parameter.grad is not None, name
        assert frozen or parameter.grad.any() or KEY_BIAS.search(name), name
    assert set(detector.frozen_modules) == loaded_names(detector)


@pytest.mark.parametrize("arguments", HEADS)
def test_logits_are_the_classifiers_of_the_features(arguments: dict) -> None:
    detector, image = large(make_detector(**arguments)), make_image()
    prediction = detector(image)
    assert prediction.logits.shape == (2, 2)
    assert prediction.features.shape == (2, arguments.get("proj_dim", 32))
    torch.testing.assert_close(detector.classifier(prediction.features), prediction.logits)
    if "proj_dim" not in arguments:
        torch.testing.assert_close(prediction.features, detector.encoder(image)[:, 0])


def test_scores_are_the_probability_of_the_second_class() -> None:
    detector, image = large(make_detector()), make_image()
    logits = detector(image).logits.double()
    expected = logits[:, 1].exp() / logits.exp().sum(1)
    torch.testing.assert_close(detector.scores(image), expected.float())
    with torch.no_grad():
        detector.classifier.bias.copy_(torch.tensor([-20.0, 20.0]))
    assert (detector.scores(image) > 0.99).all()


def test_scores_of_a_cosine_head_reach_from_near_0_to_near_1() -> None:
    detector, image = large(make_detector(head="cosine")), make_image(1)
    features = detector(image).features[0].detach()
    with torch.no_grad():
        detector.classifier.weight.copy_(torch.stack((-features, features)))
    assert detector.scores(image).item() > 0.999


def test_scores_are_fp32_in_a_network_in_bf16() -> None:
    detector = make_detector().bfloat16()
    assert detector(make_image()).logits.dtype == torch.bfloat16
    assert detector.scores(make_image()).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("encoder.model.embeddings.cls_token", 0),
        ("encoder.model.embeddings.patch_embeddings.projection.weight", 0),
        ("encoder.model.layers.0.attention.q_proj.weight", 1),
        ("encoder.model.layers.1.mlp.fc2.bias", 2),
        ("encoder.model.layernorm.weight", 2),
        ("classifier.weight", None),
        ("projection_head.0.weight", None),
    ],
)
def test_depth_counts_the_encoders_blocks(name: str, depth: int | None) -> None:
    detector = make_detector(proj_dim=4)
    assert name in dict(detector.named_parameters())
    assert detector.depth_of(name) == depth


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "other"}, "head: 'other'; must be linear, mlp or cosine"),
        ({"mixstyle": MixStyle(), "mixstyle_blocks": [0, 1]}, "mixstyle_blocks: 1; must be 0 to 0"),
        ({"proj_dim": 0}, "proj_dim: 0; must be at least 1"),
        ({"head": "mlp", "cls_hidden_dim": 0}, "cls_hidden_dim: 0; must be at least 1"),
        ({"head": "cosine", "scale": 0.0}, "scale: 0.0; must be above 0"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_detector(**arguments)


def test_every_block_of_the_encoder_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(function: Callable, **arguments: object) -> Callable:
        return function

    monkeypatch.setattr(torch, "compile", eager)
    detector = make_detector()
    names = set(detector.state_dict())
    detector.compile_blocks()
    assert all(layer._compiled_call_impl is not None for layer in detector.encoder.model.layers)
    assert set(detector.state_dict()) == names


# -- MixStyle --------------------------------------------------------------------------------------------------------


def test_mixstyle_comes_after_its_blocks_and_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor | None]] = []

    def record(self: MixStyle, tokens: Tensor, label: Tensor | None = None) -> Tensor:
        seen.append((tokens, label))
        return tokens

    torch.manual_seed(0)
    encoder = make_encoder(depth=3)
    detector, image = large(make_detector(encoder, mixstyle=MixStyle(1.0), mixstyle_blocks=[1])), make_image(8)
    plain = detector.scores(image)
    torch.testing.assert_close(large(make_detector(make_encoder(depth=3))).scores(image), plain)
    assert not torch.allclose(detector.train().scores(image), plain, atol=1e-4)
    monkeypatch.setattr(MixStyle, "forward", record)
    detector(image, LABEL)
    ((tokens, label),) = seen
    assert label is LABEL
    expected = detector.encoder.run_block(1, detector.encoder.run_block(0, detector.encoder.embed(image)))
    torch.testing.assert_close(tokens, expected)


# -- attention rollout -----------------------------------------------------------------------------------------------


def test_attention_rollout_is_the_product_of_mean_attention_and_identity() -> None:
    torch.manual_seed(0)
    detector, image = large(make_detector()), make_image()
    model = same_as(detector.encoder)
    model.set_attn_implementation("eager")
    noise = torch.arange(NUM_PATCHES).expand(2, -1)
    output = model(detector.encoder.normalize(image), noise=noise, output_attentions=True)
    expected = torch.empty(2, NUM_PATCHES)
    for index in range(2):
        # from the class token downwards, block by block: how much of it each token of the block below is
        flow = torch.zeros(NUM_PATCHES + 1)
        flow[0] = 1
        for attention in reversed(output.attentions):
            mean = attention[index].mean(0)
            flow = torch.stack([0.5 * flow[j] + 0.5 * sum(flow[i] * mean[i, j] for i in range(17)) for j in range(17)])
        expected[index] = flow[1:].detach()
    found = detector.attention_rollout(image)
    torch.testing.assert_close(found.flatten(1), expected)
    assert found.shape == (2, 4, 4)
    assert (found.sum((1, 2)) < 1).all()
    assert found.std() > 1e-3


def test_attention_rollout_leaves_the_network_as_it_was() -> None:
    detector = apply_lora(make_detector(mixstyle=MixStyle(), mixstyle_blocks=[0]), config()).train()
    detector.classifier.eval()
    configuration = detector.encoder.model.config
    before = configuration._attn_implementation
    assert before == "sdpa"
    assert not detector.attention_rollout(make_image()).requires_grad
    with pytest.raises(UserError):
        detector.attention_rollout(make_image(1, 31, 31))
    with pytest.raises(UserError, match="6 channels"):
        detector.attention_rollout(make_image().repeat(1, 2, 1, 1))  # six colors
    assert configuration._attn_implementation == before
    assert detector.encoder.training
    assert not detector.classifier.training


def test_attention_rollout_sees_the_adapters() -> None:
    detector, image = large(make_detector()), make_image()
    plain = detector.attention_rollout(image)
    apply_lora(detector, config())
    torch.testing.assert_close(detector.attention_rollout(image), plain)
    for layer in lora_layers(detector).values():
        nn.init.normal_(layer.lora_b)
    adapted = detector.attention_rollout(image)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    # and not their dropout
    torch.testing.assert_close(detector.train().attention_rollout(image), adapted)


# -- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "count"), [(4, 221_184), (8, 442_368), (16, 884_736)])
def test_counts_of_the_guide_on_the_base_model(rank: int, count: int) -> None:
    with torch.device("meta"):
        detector = MorphDetector(MAEEncoder(pretrained=False), head="mlp", proj_dim=256)
    apply_lora(detector, config(rank=rank, lora_alpha=32, trainable_modules=["classifier", "projection_head"]))
    stats = get_lora_stats(detector)
    assert stats["lora_parameters"] == count
    assert len(stats["adapted_modules"]) == 36
    head = (768 * 768 + 768) + (768 * 256 + 256) + (256 * 512 + 512) + (512 * 2 + 2)
    assert stats["trainable_parameters"] == count + head


def test_trainable_modules_name_the_heads_and_nothing_of_the_encoder() -> None:
    detector = apply_lora(make_detector(proj_dim=4), config(trainable_modules=["classifier", "projection_head"]))
    trained = {name for name, p in detector.named_parameters() if p.requires_grad and "lora_" not in name}
    assert trained == {
        "classifier.weight",
        "classifier.bias",
        "projection_head.0.weight",
        "projection_head.0.bias",
        "projection_head.2.weight",
        "projection_head.2.bias",
    }


def test_an_adapter_opens_on_transformers_model_with_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    detector, image = large(make_detector()), make_image()
    encoder = same_as(detector.encoder)
    apply_lora(detector, config())
    for layer in lora_layers(detector).values():
        nn.init.normal_(layer.lora_b, std=0.5)
    folder = save_adapter(detector, tmp_path / "adapter")
    opened = peft.PeftModel.from_pretrained(encoder, folder / "encoder.model").eval()
    noise = torch.arange(NUM_PATCHES).expand(2, -1)
    output = opened(detector.encoder.normalize(image), noise=noise).last_hidden_state
    torch.testing.assert_close(output, detector.encoder(image))
    fresh = load_adapter(large(make_detector()), folder).eval()
    torch.testing.assert_close(fresh.scores(image), detector.scores(image))
    merged = merge_lora_weights(fresh)
    torch.testing.assert_close(merged.scores(image), detector.scores(image))


def test_a_detector_reads_what_pre_training_left(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "mae")
    detector = make_detector(make_encoder(pretrained=str(tmp_path / "mae")))
    assert loaded_names(detector) == {name for name in detector.state_dict() if name.startswith("encoder.model.")}
    assert (detector.base, detector.img_size) == (str(tmp_path / "mae"), (32, 32))
    assert make_detector().base == "vit-mae (random)"
    for name, value in model.vit.state_dict().items():
        assert torch.equal(detector.encoder.model.state_dict()[name], value)
