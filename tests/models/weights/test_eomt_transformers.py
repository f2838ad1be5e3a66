"""EoMT against transformers' classes on the same weights: logits, losses, gradients; there and back."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
    PreTrainedModel,
)

from eomt.losses import MaskClassificationLoss
from eomt.models import EoMT
from eomt.models.weights.eomt.names import BACKBONE, eomt_to_hugging_face
from eomt.tasks import SemanticSegmentation
from tests.models.weights.eomt_pairs import (
    NUM_CLASSES,
    NUM_POINTS,
    NUM_QUERIES,
    SIDE,
    make_batch,
    make_network,
    make_transformers,
    normalized,
    randomize,
    save,
)

KINDS = ("dinov2", "gated", "dinov3")


def written_and_opened(network: EoMT, kind: str, folder: Path, **arguments: object) -> PreTrainedModel:
    """transformers' model of what `network`, filled at random, writes."""
    randomize(network).write(folder)  # type: ignore[operator]
    model_class = EomtDinov3ForUniversalSegmentation if "dinov3" in kind else EomtForUniversalSegmentation
    model, report = model_class.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **arguments
    )
    assert not any(report.values())
    return model


def assert_same_logits(network: EoMT, model: PreTrainedModel, probability: float) -> None:
    for either in (network, model):
        either.eval().attn_mask_probs.fill_(probability)
    image = make_batch()
    with torch.no_grad():
        found, expected = network(image)[-1], model(normalized(image, network))
    for ours, theirs in (
        (found.mask_logits, expected.masks_queries_logits),
        (found.class_logits, expected.class_queries_logits),
    ):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_transformers_give_its_logits_masked_and_annealed(tmp_path: Path, kind: str) -> None:
    model = make_transformers(kind)
    network = make_network(kind, pretrained=save(model, tmp_path))
    for probability in (1.0, 0.0):
        assert_same_logits(network, model, probability)


@pytest.mark.parametrize(
    "kind", ["dinov2", "gated", "dinov3", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3"]
)  # the last two: a class position to fold, no biases of query and value
def test_transformers_opens_what_is_written_with_equal_logits(tmp_path: Path, kind: str) -> None:
    network = make_network(kind)
    model = written_and_opened(network, kind, tmp_path)
    again = make_network(kind, pretrained=str(tmp_path))
    for probability in (1.0, 0.0):
        assert_same_logits(network, model, probability)
        again.eval().attn_mask_probs.fill_(probability)
        with torch.no_grad():
            for one, other in zip(again(make_batch())[-1], network(make_batch())[-1], strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(48, 48), (48, 80), (75, 48), (120, 90), (40, 110), (37, 61), (64, 98)])
def test_a_written_folder_answers_in_the_pipeline_of_transformers(tmp_path: Path, size: tuple[int, int]) -> None:
    """15 A: classes of each pixel, with transformers' own windows, interpolation and sums."""
    network = randomize(make_network())
    with torch.no_grad():
        # far from each other, so that an image shows several classes
        for parameter in (network.q.weight, network.class_head.weight, network.mask_head[4].weight):
            parameter.mul_(8)
    network.write(tmp_path)
    model = EomtForUniversalSegmentation.from_pretrained(tmp_path).eval()
    for either in (network, model):
        either.attn_mask_probs.zero_()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    task = SemanticSegmentation(network).eval()
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(3, 3, *(side // 8 for side in size), generator=generator)
    images = (F.interpolate(coarse, size, mode="bicubic").clamp(0, 1) * 255).byte()
    for image in images:
        inputs = processor(image, return_tensors="pt")
        offsets = inputs.pop("patch_offsets")
        with torch.no_grad():
            answer = model(**inputs)
            found = task.segment(image[None])[0][0]
        answer.patch_offsets = offsets
        (expected,) = processor.post_process_semantic_segmentation(answer, target_sizes=[size])
        assert len(expected.unique()) > 1
        assert float((found == expected).float().mean()) > 0.999


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("probability", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_transformers(
    tmp_path: Path, kind: str, probability: float, written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if written:
        network = make_network(kind)
        model = written_and_opened(network, kind, tmp_path, train_num_points=NUM_POINTS)
    else:
        model = make_transformers(kind)
        network = make_network(kind, pretrained=save(model, tmp_path))
    for either in (network, model):
        either.train().attn_mask_probs.fill_(probability)
    image = make_batch()
    mask = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    mask[0, 9:30, 12:40], mask[0, 33:, 20:], mask[1, :20, :17] = 1, 4, 2
    class_labels = [labels.unique() for labels in mask]
    mask_labels = [(m == labels[:, None, None]).float() for m, labels in zip(mask, class_labels, strict=True)]

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", rand_at_fixed_points)
        found = loss_at_fixed_points()(network(image), mask)["loss"]
        expected = model(normalized(image, network), mask_labels=mask_labels, class_labels=class_labels).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    found.backward()
    expected.backward()
    ours = gradients_in_their_names(network, rotary=kind == "dinov3")
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in theirs.items():
        # the bias of a key has no gradient but rounding
        tolerance = 1e-4 * float(gradient.abs().max()) + 1e-6 * largest
        assert float((ours[name] - gradient).abs().max()) <= tolerance, name


FIXED = torch.rand(4 * NUM_POINTS, 2, generator=torch.Generator().manual_seed(5))


def loss_at_fixed_points() -> MaskClassificationLoss:
    """Draws the same points for every image; those of the matching are the first of the loss's."""
    loss = MaskClassificationLoss(NUM_CLASSES, num_points=NUM_POINTS)
    loss.sample_points = lambda shape, device: FIXED[: shape[1]].expand(*shape, 2)  # type: ignore[method-assign]
    return loss


def rand_at_fixed_points(*shape: int, device: torch.device) -> Tensor:
    """What torch.rand must return: which queries are masked, and to transformers candidates and the other points."""
    if shape[1] == NUM_QUERIES:  # (B, Q) or (B, Q, 1), some of each below and above
        return torch.linspace(0.05, 0.95, shape[0] * NUM_QUERIES).view(shape)
    first = 3 * NUM_POINTS if shape[1] == NUM_POINTS // 4 else 0
    return FIXED[first : first + shape[1]].expand(*shape).contiguous()


def gradients_in_their_names(network: EoMT, rotary: bool) -> dict[str, Tensor]:
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    heads = {name: value for name, value in found.items() if not name.startswith(BACKBONE)}
    backbone = {name.removeprefix(BACKBONE): value for name, value in found.items() if name.startswith(BACKBONE)}
    return eomt_to_hugging_face(heads, backbone, rotary)
