"""Outputs of frozen parts: computed once, and always those of the weights and inputs of now."""

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt.lora.adapter_layer import lora_layers
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.models import MorphDetector
from eomt.models.frozen_features import FeatureCache
from eomt.models.mixstyle import MixStyle
from eomt.models.network import Network
from tests import tiny, tiny_morph, tiny_sam2, tiny_vqa

FROZEN: dict[str, Any] = {"enabled": False, "freeze_base_model": True}
Answer = Callable[[Any, Tensor], list[Tensor]]


def of_eomt(network: Any, image: Tensor) -> list[Tensor]:
    prediction = network(image)[-1]
    return [prediction.mask_logits, prediction.class_logits]


def of_sam2(network: Any, image: Tensor) -> list[Tensor]:
    points, labels = tiny_sam2.make_points(len(image))
    return [part.float() for part in network(image, points.to(network.model.dtype), labels)]


def of_morphs(network: Any, image: Tensor) -> list[Tensor]:
    return [network(image).logits]


def of_vqa(network: Any, image: Tensor) -> list[Tensor]:
    questions = tiny_vqa.make_questions(len(image))
    mask = questions["attention_mask"].clone()
    mask[0, 3:] = 0
    labels = questions["input_ids"] if network.answer_head == "generative" else None
    return [network(image, questions["input_ids"], mask, labels).logits]


def make_vqa(**arguments: Any) -> Any:
    network = tiny_vqa.make_vqa(**arguments)
    tiny_vqa.enlarge_weights(network)
    return network


def vqa_images(batch: int = 3) -> Tensor:
    return tiny_vqa.make_questions(batch)["images"]


# network, images, answers, what is trained, and a weight in the part that is kept
CASES: dict[str, tuple[Callable[[], Network], Callable[[], Tensor], Answer, dict[str, Any], str]] = {
    "eomt, heads": (
        tiny.make_eomt,
        tiny.make_image,
        of_eomt,
        {"trainable_modules": ["q", "class_head", "mask_head"]},
        "encoder.backbone.blocks.0.attn.qkv.weight",
    ),
    "eomt, last blocks": (
        lambda: tiny.make_eomt(num_blocks=1),
        tiny.make_image,
        of_eomt,
        {"enabled": True, "target_modules": ["attention"], "layers": "last:2", "trainable_modules": ["q"]},
        "encoder.backbone.blocks.0.attn.qkv.weight",
    ),
    "sam2, decoder": (
        tiny_sam2.make_sam2,
        tiny_sam2.make_image,
        of_sam2,
        {"enabled": True, "target_modules": ["mask_decoder.transformer"]},
        "model.vision_encoder.backbone.patch_embed.projection.weight",
    ),
    "sam2, what stands behind its blocks": (
        tiny_sam2.make_sam2,
        tiny_sam2.make_image,
        of_sam2,
        {"trainable_modules": ["conv_s0"]},
        "model.vision_encoder.backbone.patch_embed.projection.weight",
    ),
    "morphs, head": (
        tiny_morph.make_detector,
        tiny_morph.make_image,
        of_morphs,
        {"trainable_modules": ["classifier"]},
        "encoder.model.layers.0.mlp.fc1.weight",
    ),
    "vqa, both towers": (
        lambda: make_vqa(answer_head="classification"),
        vqa_images,
        of_vqa,
        {},
        "vision_encoder.model.embeddings.cls_token",
    ),
    "vqa, decoder": (
        make_vqa,
        vqa_images,
        of_vqa,
        {"enabled": True, "target_modules": ["re:text_model.model.decoder.*q_proj"]},
        "vision_encoder.model.embeddings.cls_token",
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Network, Tensor, Answer, str]:
    make, images, answer, trained, weight = CASES[request.param]
    torch.manual_seed(0)
    network = make()
    apply_lora(network, LoRAConfig(**(FROZEN | trained)))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return network.double().train(), images(), answer, weight


def keep(network: nn.Module, cache: FeatureCache | None) -> None:
    for module in network.modules():
        if isinstance(module, Network):
            module.feature_cache = cache


def gradients(network: nn.Module, answers: list[Tensor]) -> list[Tensor]:
    network.zero_grad()
    sum((answer.double() ** 3).mean() for answer in answers).backward()  # type: ignore[union-attr]
    found = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert found
    return found


def equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def calls(network: nn.Module, name: str) -> Iterator[int]:
    """The number of samples of each call of the module with a parameter, from now on."""
    counts: list[int] = []
    module = network.get_submodule(name.rpartition(".")[0])
    module.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    while True:
        yield sum(counts)


def test_kept_features_change_no_answer_and_no_gradient(case: tuple[Network, Tensor, Answer, str]) -> None:
    network, image, answer, weight = case
    torch.manual_seed(1)
    expected = answer(network, image)
    of_training = gradients(network, expected)
    of_evaluation = answer(network.eval(), image)
    cache = FeatureCache(1.0)
    keep(network, cache)
    seen = calls(network, weight)
    assert next(seen) == 0
    for _ in range(3):
        torch.manual_seed(1)
        found = answer(network.train(), image)
        equal(found, expected)
        equal(gradients(network, found), of_training)
        equal(answer(network.eval(), image), of_evaluation)
        # rows of another batch
        equal([row[:1] for row in answer(network, image)], [row[:1] for row in of_evaluation])
    assert len(cache) >= len(image)
    assert next(seen) == len(image)


def other_images(network: Network, image: Tensor, weight: str) -> Tensor:
    return 255 - image


def written_weights(network: Network, image: Tensor, weight: str) -> Tensor:
    with torch.no_grad():
        network.get_parameter(weight).mul_(-1)
    return image


def loaded_weights(network: Network, image: Tensor, weight: str) -> Tensor:
    network.load_state_dict(network.state_dict() | {weight: -network.get_parameter(weight)})
    return image


def assigned_weights(network: Network, image: Tensor, weight: str) -> Tensor:
    state = {weight: -network.get_parameter(weight).detach()}
    network.load_state_dict(state, assign=True, strict=False)
    network.get_parameter(weight).requires_grad_(False)
    return image


def moved_precision(network: Network, image: Tensor, weight: str) -> Tensor:
    network.float()
    return image


def trained_weights(network: Network, image: Tensor, weight: str) -> Tensor:
    parameter = network.get_parameter(weight).requires_grad_()
    parameter.data.mul_(-1)
    return image


@pytest.mark.parametrize(
    "change",
    [other_images, written_weights, loaded_weights, assigned_weights, moved_precision, trained_weights],
)
def test_features_are_those_of_the_weights_and_images_of_now(
    change: Any, case: tuple[Network, Tensor, Answer, str]
) -> None:
    network, image, answer, weight = case
    network.eval()
    keep(network, FeatureCache(1.0))
    before = answer(network, image)
    image = change(network, image, weight)
    found = answer(network, image)
    keep(network, None)
    expected = answer(network, image)
    equal(found, expected)
    if change is not moved_precision:
        assert any(float((one - other).detach().abs().max()) > 1e-6 for one, other in zip(found, before, strict=True))


def test_features_of_another_arithmetic_are_not_taken() -> None:
    network, image = tiny_morph.make_detector(), tiny_morph.make_image()
    apply_lora(network, LoRAConfig(**FROZEN, trainable_modules=["classifier"]))
    expected = network(image).logits
    keep(network, FeatureCache(1.0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(image).logits
    found = network(image).logits
    assert torch.equal(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(image).logits, rounded)
    assert not torch.equal(rounded.float(), found)


def frozen_detector(**arguments: Any) -> tuple[MorphDetector, Tensor]:
    network = tiny_morph.make_detector(**arguments)
    apply_lora(network, LoRAConfig(**FROZEN, trainable_modules=["classifier"]))
    return network.train(), tiny_morph.make_image(4)


def test_memory_is_bounded() -> None:
    network, image = frozen_detector()
    expected = network(image).logits
    one = 17 * 32 * 4 / 2**30
    cache = FeatureCache(2.5 * one)
    keep(network, cache)
    for _ in range(2):
        equal([network(image).logits], [expected])
        assert len(cache) == 2
        assert cache.free == pytest.approx(0.5 * one * 2**30)
    # what belonged to other weights makes room
    with torch.no_grad():
        network.encoder.model.layers[0].mlp.fc1.weight.mul_(-1)
    network(255 - image)
    assert len(cache) == 2
    assert cache.free == pytest.approx(0.5 * one * 2**30)


def test_a_copy_keeps_nothing() -> None:
    network, image = frozen_detector()
    keep(network, FeatureCache(1.0))
    network(image)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.encoder.feature_cache is not network.encoder.feature_cache
        other(image)
        assert len(other.encoder.feature_cache) == 0
    assert len(network.encoder.feature_cache) == 4


def test_another_process_finds_features_on_the_disk(tmp_path: Path) -> None:
    network, image = frozen_detector()
    expected = network(image).logits
    keep(network, FeatureCache(0.0, tmp_path))
    equal([network(image).logits], [expected])
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == 4
    # of the four, one that a full disk cut off, and one that somebody removed
    first, second, *_ = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-7])
    second.unlink()
    other = copy.deepcopy(network)
    cache = FeatureCache(1.0, tmp_path)
    keep(other, cache)
    seen = calls(other, "encoder.model.layers.0.mlp.fc1.weight")
    next(seen)
    equal([other(image).logits], [expected])
    assert next(seen) == 2
    assert len(cache) == 4
    with torch.no_grad():
        other.encoder.model.layers[0].mlp.fc1.weight.mul_(-1)
    changed = other(image).logits
    keep(other, None)
    equal([changed], [other(image).logits])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_to_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network, image = frozen_detector()
    expected = network(image).logits
    (tmp_path / "file").write_text("")
    keep(network, FeatureCache(1.0, tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "eomt"):
        for _ in range(2):
            equal([network(image).logits], [expected])
    assert caplog.text.count("feature_folder: ") == 1


def test_frozen_parts_have_no_dropout_in_training() -> None:
    network, image = frozen_detector()
    for layer in network.encoder.model.layers:
        layer.attention.dropout_prob = layer.mlp.hidden_dropout_prob = 0.5
    for module in network.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert torch.equal(network(image).logits, network(image).logits)
    assert all(module.training for module in network.modules())


def test_an_image_can_have_a_gradient() -> None:
    network, image = frozen_detector()
    keep(network, FeatureCache(1.0))
    pixels = (image / 255).requires_grad_()
    network(pixels).logits.sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().max()) > 0
    assert len(network.encoder.feature_cache) == 0  # type: ignore[arg-type]


def test_what_mixstyle_mixes_is_not_kept() -> None:
    network, image = frozen_detector(
        encoder=tiny_morph.make_encoder(depth=3), mixstyle=MixStyle(probability=1.0), mixstyle_blocks=(1,)
    )
    keep(network, FeatureCache(1.0))
    torch.manual_seed(0)
    answers = [network(image, torch.tensor([0, 1, 0, 1])).logits for _ in range(2)]
    assert not torch.allclose(*answers)
    assert len(network.encoder.feature_cache) == 4  # type: ignore[arg-type]


def test_training_asks_only_where_its_images_come_again() -> None:
    network, image = frozen_detector()
    cache = FeatureCache(1.0)
    cache.in_training = False
    keep(network, cache)
    network(image)
    assert (len(cache), cache.asked) == (0, 0)
    network.eval()(image)
    assert len(cache) == 4


def test_a_frozen_adapter_is_never_below() -> None:
    """It may be switched off, which no weight shows."""
    network, image = tiny_morph.make_detector(), tiny_morph.make_image()
    apply_lora(network, LoRAConfig(target_modules=["query"], freeze_base_model=True))
    network.requires_grad_(False)
    for layer in lora_layers(network).values():
        nn.init.normal_(layer.lora_b)
    keep(network, FeatureCache(1.0))
    adapted = network(image).logits
    for layer in lora_layers(network).values():
        layer.adapter_enabled = False
    assert not torch.equal(network(image).logits, adapted)


def test_weights_that_take_the_place_of_others_are_not_taken_for_them() -> None:
    network, image = frozen_detector()
    cache = FeatureCache(1.0)
    module = network.encoder.model.layers[0].mlp.fc1
    for _ in range(20):
        shape = module.weight.shape
        del module.weight
        module.weight = nn.Parameter(torch.randn(shape), requires_grad=False)
        keep(network, cache)
        found = network(image).logits
        keep(network, None)
        equal([found], [network(image).logits])


def test_other_settings_on_the_same_weights_find_nothing_on_the_disk(tmp_path: Path) -> None:
    """A number of heads is in no weight."""
    network, image = frozen_detector()
    keep(network, FeatureCache(0.0, tmp_path))
    network(image)
    other, _ = frozen_detector(encoder=tiny_morph.make_encoder(num_heads=4))
    other.load_state_dict(network.state_dict())
    expected = other(image).logits
    keep(other, FeatureCache(0.0, tmp_path))
    equal([other(image).logits], [expected])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_network_with_class_prompts_finds_nothing_of_one_without(tmp_path: Path) -> None:
    plain, image = tiny_sam2.make_sam2(), tiny_sam2.make_image()
    classes = tiny_sam2.make_sam2(prompt_free=True, num_classes=2)
    for network in (plain, classes):
        apply_lora(network, LoRAConfig(target_modules=["mask_decoder.transformer"], freeze_base_model=True))
        keep(network, FeatureCache(1.0, tmp_path))
    assert plain.encode(image).pooled.shape[1] == 0
    assert classes.encode(image).pooled.shape[1] > 0
    keep(plain, FeatureCache(1.0, tmp_path))
    assert plain.encode(image).pooled.shape[1] == 0


@pytest.mark.parametrize("name", ["1", "0"])
def test_a_file_of_something_else_is_computed_anew(tmp_path: Path, name: str) -> None:
    network, image = frozen_detector()
    keep(network, FeatureCache(0.0, tmp_path))
    expected = network(image[:1]).logits
    (file,) = tmp_path.rglob("*.safetensors")
    save_file({name: torch.zeros(3, 5)}, file)
    equal([network(image[:1]).logits], [expected])


def test_two_encoders_keep_features_of_their_own() -> None:
    network, image = frozen_detector()
    other, _ = frozen_detector()
    cache = FeatureCache(1.0)
    keep(network, cache)
    keep(other, cache)
    for _ in range(2):
        network(image)
        other(image)
    assert (cache.asked, cache.found) == (16, 8)
