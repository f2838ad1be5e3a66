"""SAM 2: equal to transformers' own model, trainable to the first block, any number of prompts an image."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Sam2Model

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.layers import lora_layers
from eomt.lora.summary import get_lora_stats
from eomt.lora.targets import resolve_targets
from eomt.models import SAM2
from eomt.models.parts.sam2_outputs import SAM2Prediction
from eomt.models.sam2 import ABSENT, LORA_TARGETS, default_lora
from tests.tiny_sam2 import make_boxes, make_image, make_points, make_sam2, tiny_model

PROMPTS = ["points", "boxes", "both", "none"]


def prompts(kind: str, batch: int = 2, count: int = 3) -> dict[str, Tensor]:
    points, labels = make_points(batch, count)
    given = {"points": points, "labels": labels, "boxes": make_boxes(batch, count)}
    names = {"points": ("points", "labels"), "boxes": ("boxes",), "both": tuple(given), "none": ()}[kind]
    return {name: given[name] for name in names}


def answer(model: Sam2Model, network: SAM2, image: Tensor, given: dict[str, Tensor], multimask: bool = True) -> list:
    """What transformers' own model says, in the order of SAM2Prediction."""
    pixels = (image / 255 - network.normalize.mean) / network.normalize.std
    output = model(pixels, **{f"input_{name}": value for name, value in given.items()}, multimask_output=multimask)
    return [output.pred_masks, output.iou_scores, output.object_score_logits]


def total(prediction: SAM2Prediction) -> Tensor:
    """A loss that everything takes part in."""
    generator = torch.Generator().manual_seed(4)
    parts = [(x * torch.randn(x.shape, generator=generator)).sum() for x in prediction]
    return torch.stack(parts).sum()


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("kind", PROMPTS)
def test_answers_are_those_of_transformers_while_adapters_are_zero(kind: str, multimask: bool) -> None:
    network, model, given = make_sam2().eval(), tiny_model(), prompts(kind)
    apply_lora(network, default_lora())
    # pinned in ours: one mask must not depend on the mode
    model.mask_decoder.dynamic_multimask_via_stability = False
    found = network(make_image(), **given, multimask=multimask)
    assert found.mask_logits.shape == (2, 1 if kind == "none" else 3, 3 if multimask else 1, 16, 16)
    for one, other in zip(found, answer(model, network, make_image(), given, multimask), strict=True):
        torch.testing.assert_close(one, other)
        assert one.flatten(2).std() > 1e-3


@pytest.mark.parametrize("kind", ["points", "boxes"])
def test_gradients_are_those_of_transformers_while_adapters_are_zero(kind: str) -> None:
    network, model, given = make_sam2(), tiny_model().train(), prompts(kind)
    apply_lora(network, default_lora())
    for parameter in network.model.parameters():
        parameter.requires_grad_(True)
    network.eval()
    total(network(make_image(), **given)).backward()
    total(SAM2Prediction(*answer(model, network, make_image(), given))).backward()
    own = dict(network.model.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(own[name].grad, parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", PROMPTS)
def test_gradients_reach_every_adapter_from_the_masks_alone(kind: str) -> None:
    network = make_sam2()
    apply_lora(network, default_lora())
    network(make_image(), **prompts(kind)).mask_logits.square().mean().backward()
    for path, layer in lora_layers(network).items():
        assert layer.lora_b.grad is not None, path
        assert layer.lora_b.grad.any(), path


def test_everything_but_the_prompt_encoder_learns_in_full_fine_tuning() -> None:
    network = make_sam2()
    total(network(make_image(), **prompts("points"))).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == name.startswith(network.frozen_modules), name


def test_default_lora_is_1_473_152_parameters_of_the_large_size() -> None:
    with torch.device("meta"):
        network = SAM2(pretrained=False, size="large")
    assert sum(parameter.numel() for parameter in network.parameters()) == 216_924_865
    chosen = list(resolve_targets(network, LORA_TARGETS)[0])
    assert len([path for path in chosen if path.startswith("model.vision_encoder.backbone.blocks.")]) == 96
    decoder = [path for path in chosen if path.startswith("model.mask_decoder.transformer.")]
    assert (len(decoder), len([path for path in decoder if ".mlp." in path])) == (28 + 4, 4)
    assert len(chosen) == 96 + 32
    apply_lora(network, default_lora())
    stats = get_lora_stats(network)
    assert (stats["lora_parameters"], stats["trainable_parameters"]) == (1_473_152, 1_473_152)


def test_checkpointing_has_the_same_gradients_and_keeps_less() -> None:
    kept, gradients = [], []
    for checkpointing in (False, True):
        network = make_sam2(checkpointing=checkpointing).train()
        torch.manual_seed(5)
        apply_lora(network, default_lora())
        for layer in lora_layers(network).values():
            nn.init.normal_(layer.lora_b, std=0.1)
        sizes: list[int] = []

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        torch.manual_seed(6)  # the dropout's
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = total(network(make_image(), **prompts("both")))
        loss.backward()
        kept.append(sum(sizes))
        gradients.append([layer.lora_b.grad for layer in lora_layers(network).values()])
    assert kept[1] < kept[0] / 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["points", "both"])
def test_prompts_and_images_of_a_batch_do_not_meet(kind: str) -> None:
    network, given = make_sam2().eval(), prompts(kind)
    image = make_image()
    masks = torch.randn(2, 3, 1, 16, 16)
    features = network.encode(image)
    for extra in ({}, {"masks": masks}):
        together = network.decode(features, **given, **extra)
        for row in range(2):
            for column in range(3):
                alone = {name: value[row : row + 1, column : column + 1] for name, value in (given | extra).items()}
                single = network.decode(features.select([row]), **alone)
                for one, other in zip(together, single, strict=True):
                    torch.testing.assert_close(one[row : row + 1, column : column + 1], other, rtol=1e-4, atol=1e-4)


def test_mask_prompts_of_one_object_are_those_of_transformers() -> None:
    network, model, given = make_sam2().eval(), tiny_model(), prompts("points", count=1)
    masks = torch.randn(2, 1, 1, 16, 16)
    found = network(make_image(), **given, masks=masks)
    for one, other in zip(found, answer(model, network, make_image(), given | {"masks": masks[:, 0]}), strict=True):
        torch.testing.assert_close(one, other)
    without = network(make_image(), **given)
    assert not torch.allclose(found.mask_logits, without.mask_logits, atol=1e-2)
    assert network(make_image(), masks=masks).mask_logits.shape == (2, 1, 3, 16, 16)


def test_a_box_is_two_points_labelled_2_and_3() -> None:
    network, boxes = make_sam2().eval(), make_boxes()
    corners = boxes.unflatten(-1, (2, 2))
    labels = torch.tensor([2, 3]).expand(2, 3, 2)
    for one, other in zip(
        network(make_image(), boxes=boxes), network(make_image(), points=corners, labels=labels), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_one_mask_is_the_same_in_training_and_evaluation() -> None:
    network, given = make_sam2(), prompts("points")
    training = network.train()(make_image(), **given, multimask=False)
    evaluation = network.eval()(make_image(), **given, multimask=False)
    assert torch.equal(training.mask_logits, evaluation.mask_logits)
    # and does differ from transformers' choice, else this would show nothing
    model = tiny_model()
    model.mask_decoder.dynamic_multimask_stability_thresh = 1.1
    theirs = answer(model, network, make_image(), given, False)[0]
    assert not torch.allclose(theirs, evaluation.mask_logits, atol=1e-2)


@pytest.mark.parametrize("index", [slice(1, 2), [1], torch.tensor([1])])
def test_features_are_kept_an_image_at_a_time_and_used_again(index: slice | list[int] | Tensor) -> None:
    network, given = make_sam2().eval(), prompts("points")
    features = network.encode(make_image())
    expected = network.decode(features, **given).mask_logits
    second = network.decode(features.select(index), given["points"][1:], given["labels"][1:]).mask_logits
    torch.testing.assert_close(second, expected[1:], rtol=1e-4, atol=1e-4)
    kept = [features.to(dtype=torch.bfloat16).select(row) for row in range(2)]
    again = torch.utils.data.default_collate(kept)
    assert [level.dtype for level in again] == [torch.bfloat16] * 4
    torch.testing.assert_close(
        network.decode(type(features)(*again).to(dtype=torch.float32), **given).mask_logits,
        expected,
        rtol=0.1,
        atol=0.1,
    )


def test_uint8_and_unit_interval_are_the_same_image() -> None:
    network = make_sam2().eval()
    torch.testing.assert_close(network.encode(make_image()), network.encode(make_image() / 255))


def test_under_autocast_coordinates_stay_exact_and_answers_are_fp32() -> None:
    network, given = make_sam2().eval(), prompts("both")
    seen: list[Tensor] = []
    network.model.prompt_encoder.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    expected = network(make_image(), **given)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(make_image(), **given)
    assert torch.equal(*seen)
    assert {x.dtype for x in found} == {torch.float32}
    torch.testing.assert_close(found.mask_logits, expected.mask_logits, rtol=0.1, atol=0.5)


def test_a_network_in_bf16_takes_images_and_prompts() -> None:
    network, given = make_sam2().eval().bfloat16(), prompts("both")
    found = network(make_image(), **given, masks=torch.randn(2, 3, 1, 16, 16))
    assert network.encode(make_image()).embedding.dtype == torch.bfloat16
    assert {x.dtype for x in found} == {torch.float32}
    assert all(x.isfinite().all() for x in found)


def test_class_prompts_start_apart_and_answer_nothing() -> None:
    """15.2: all started from one vector and stayed within a cosine of .998; step 0 answered anything."""
    network = make_sam2(prompt_free=True, num_classes=3).eval()
    weight = network.class_tokens().flatten(1)
    cosine = F.cosine_similarity(weight[:, None], weight[None], dim=2)
    # an empty prompt plus noise of its own size: the expected cosine is one half, and 64 numbers scatter by .1
    assert bool((cosine[~torch.eye(3, dtype=torch.bool)] < 0.8).all())
    found = network.decode_classes(network.encode(make_image()))
    assert found.mask_logits.shape == (2, 3, 1, 16, 16)
    assert torch.equal(found.object_logits, torch.full((2, 3, 1), ABSENT))
    assert torch.equal(weight, make_sam2(prompt_free=True, num_classes=3).class_tokens().flatten(1))


def test_presence_is_learned_apart_from_the_frozen_score_of_objects() -> None:
    """15.2: the logit was .22 for every image and class, since no unit of the frozen head was ever positive."""
    network = make_sam2(prompt_free=True, num_classes=2).eval()
    with torch.no_grad():
        # a head that is dead, as adapters below it made that of the quickstart
        network.model.mask_decoder.pred_obj_score_head.layers[0].bias.fill_(-1e6)
    apply_lora(network, default_lora(prompt_free=True))
    truth = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        logits = network.decode_classes(network.encode(make_image())).object_logits[..., 0]
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, truth).backward()
        optimizer.step()
    assert torch.equal((logits > 0).float(), truth)
    lora = [layer for path, layer in lora_layers(network).items() if "vision_encoder" in path]
    assert all(layer.lora_b.grad is not None and layer.lora_b.grad.any() for layer in lora)


def test_each_class_prompt_moves_its_own_mask_and_learns_from_it() -> None:
    network = make_sam2(prompt_free=True, num_classes=3).eval()
    apply_lora(network, default_lora(prompt_free=True))
    assert network.class_prompts is not None
    weight = network.class_prompts.weight
    assert weight.requires_grad
    features = network.encode(make_image())
    before = network.decode_classes(features).mask_logits
    gradient = torch.autograd.grad(before[:, 1].square().mean(), weight)[0]
    assert gradient.any(dim=1).tolist() == [False, True, False]
    with torch.no_grad():
        weight[1].normal_()
    after = network.decode_classes(features).mask_logits
    assert (after - before).abs().flatten(2).amax(dim=(0, 2)).gt(1e-2).tolist() == [False, True, False]


@pytest.mark.parametrize("num_classes", [None, 0])
def test_class_prompts_need_the_number_of_classes(num_classes: int | None) -> None:
    with pytest.raises(UserError, match=f"num_classes: {num_classes}"):
        make_sam2(prompt_free=True, num_classes=num_classes)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match="size: 'huge'; must be tiny, small, base_plus, large"):
        SAM2(pretrained=False, size="huge")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("model.vision_encoder.backbone.patch_embed.projection.weight", 0),
        ("model.vision_encoder.backbone.pos_embed", 0),
        ("model.vision_encoder.backbone.blocks.0.attn.qkv.weight", 1),
        ("model.vision_encoder.backbone.blocks.4.proj.weight", 5),
        ("model.vision_encoder.neck.convs.0.weight", 5),
        ("model.mask_decoder.iou_token.weight", None),
        ("model.no_memory_embedding", None),
        ("class_prompts.weight", None),
    ],
)
def test_depth_counts_blocks_of_the_encoder(name: str, depth: int | None) -> None:
    network = make_sam2(prompt_free=True, num_classes=2)
    assert name in dict(network.named_parameters())
    assert network.depth_of(name) == depth


def test_every_block_of_the_encoder_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def eager(function: Callable, **arguments: object) -> Callable:
        return function

    monkeypatch.setattr(torch, "compile", eager)
    network = make_sam2()
    names = set(network.state_dict())
    network.compile_blocks()
    assert all(block._compiled_call_impl is not None for block in network.model.vision_encoder.backbone.blocks)
    assert set(network.state_dict()) == names
