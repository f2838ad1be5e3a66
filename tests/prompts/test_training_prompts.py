"""Prompts for training: where they may lie, how often, and that switches switch."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes
from transformers.models.sam2.configuration_sam2 import Sam2PromptEncoderConfig
from transformers.models.sam2.modeling_sam2 import Sam2PromptEncoder

from eomt.errors import UserError
from eomt.prompts import (
    PADDING_LABEL,
    Prompts,
    PromptSampling,
    add_correction,
    sample_box,
    sample_correction,
    sample_objects,
    sample_point,
    sample_prompts,
    tight_boxes,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_masks(num_masks: int = 5, size: tuple[int, int] = (24, 40), seed: int = 0) -> Tensor:
    """Return sparse random masks `(N, H, W)`, none empty, the last of a single pixel."""
    masks = torch.rand(num_masks, *size, generator=generator(seed)) < 0.02
    masks[:, 3, 5] = True
    masks[-1] = False
    masks[-1, 20, 30] = True
    return masks


def logits_of(masks: Tensor) -> Tensor:
    return masks.float() * 8 - 4


def shares(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Return how often each pixel `(H, W)` is among points `(K, 2)`, of 1."""
    x, y = points.long().unbind(dim=-1)
    return torch.bincount(y * size[1] + x, minlength=size[0] * size[1]).view(size) / len(points)


def test_tight_boxes_are_those_of_torchvision() -> None:
    masks = make_masks(20)

    assert torch.equal(tight_boxes(masks), masks_to_boxes(masks))
    assert torch.equal(tight_boxes(masks.view(4, 5, 24, 40)), masks_to_boxes(masks).view(4, 5, 4))


def test_tight_box_of_an_empty_mask_is_the_image() -> None:
    assert tight_boxes(torch.zeros(24, 40, dtype=torch.bool)).tolist() == [0, 0, 39, 23]


def test_box_noise_is_uniform_up_to_its_share_of_the_side() -> None:
    mask = torch.zeros(200, 400, dtype=torch.bool)
    mask[50:100, 100:301] = True  # 49 high and 200 wide from first to last pixel

    boxes = sample_box(mask.expand(4000, -1, -1), noise=0.1, max_noise=1000, generator=generator())

    moved = (boxes - torch.tensor([100.0, 50, 300, 99])) / torch.tensor([20, 4.9, 20, 4.9])
    assert moved.abs().max() <= 1
    torch.testing.assert_close(moved.mean(dim=0), torch.zeros(4), atol=0.04, rtol=0)
    torch.testing.assert_close(moved.var(dim=0), torch.full((4,), 1 / 3), atol=0.02, rtol=0)


@pytest.mark.parametrize(("size", "limit"), [((1024, 1024), [20, 20]), ((512, 2048), [40, 10])])
def test_box_noise_is_limited_in_pixels_of_a_square_of_1024(size: tuple[int, int], limit: list[float]) -> None:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[100:-100, 300:-300] = True
    boxes = torch.cat([sample_box(mask[None], noise=0.4, generator=generator(seed)) for seed in range(200)])

    moved = (boxes - tight_boxes(mask)).abs()

    most = torch.tensor(limit * 2, dtype=torch.float32)
    assert (moved <= most).all()
    assert (moved.amax(dim=0) > 0.9 * most).all()


def test_boxes_stay_inside_the_image_and_without_noise_are_tight() -> None:
    full = torch.ones(50, 30, 60, dtype=torch.bool)

    boxes = sample_box(full, noise=0.4, max_noise=1000, generator=generator())

    assert boxes.amin() == 0
    assert (boxes <= torch.tensor([59.0, 29, 59, 29])).all()
    assert torch.equal(sample_box(make_masks(), noise=0), tight_boxes(make_masks()))


def test_points_are_uniform_in_the_mask() -> None:
    mask = make_masks()[0]

    points, labels = sample_point(mask.expand(20000, -1, -1), generator())

    expected = mask / mask.sum()
    torch.testing.assert_close(shares(points, (24, 40)), expected, atol=0.01, rtol=0)
    assert labels.unique().tolist() == [1]


def test_corrections_are_uniform_in_the_error_and_tell_misses_from_false_alarms() -> None:
    masks = make_masks()
    target, prediction = masks[0], masks[1]
    expand = (1, 20000, -1, -1)

    points, labels = sample_correction(logits_of(prediction).expand(expand), target.expand(expand), generator())

    wrong = target ^ prediction
    torch.testing.assert_close(shares(points[0], (24, 40)), wrong / wrong.sum(), atol=0.01, rtol=0)
    x, y = points[0].long().unbind(dim=-1)
    assert torch.equal(labels[0].bool(), target[y, x])
    assert labels.unique().tolist() == [0, 1]


def test_correction_without_an_error_is_on_the_object_and_without_an_object_off_it() -> None:
    masks = torch.stack([make_masks()[0], torch.zeros(24, 40, dtype=torch.bool)]).repeat(100, 1, 1, 1)

    points, labels = sample_correction(logits_of(masks), masks, generator())

    x, y = points[:, 0].long().unbind(dim=-1)
    assert masks[0, 0, y, x].all()
    assert labels.unique(dim=0).tolist() == [[1, 0]]


def test_correction_sees_small_logits_enlarged() -> None:
    target = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    target[..., :4] = True
    logits = torch.tensor([[[[1.0, 1.0], [1.0, 1.0]]]])  # everything: columns 4 to 7 are wrong

    for seed in range(20):
        point, label = sample_correction(logits, target, generator(seed))
        assert point[0, 0, 0] >= 4
        assert label.item() == 0


def test_places_without_an_object_have_no_prompt() -> None:
    masks = torch.zeros(2, 3, 24, 40, dtype=torch.bool)
    masks[:, 0] = make_masks()[:2]
    valid = torch.tensor([[True, False, False], [True, True, False]])
    for probability in (0.0, 1.0):
        prompts = sample_prompts(masks, valid, PromptSampling(box_probability=probability), generator())
        prompts = add_correction(prompts, logits_of(~masks), masks, valid, generator())
        assert prompts.points is not None
        assert prompts.labels is not None
        assert prompts.points.shape == (2, 3, 2 - probability, 2)
        assert torch.equal(prompts.labels == PADDING_LABEL, ~valid[..., None].expand_as(prompts.labels))
        assert (prompts.points[~valid] == 0).all()
        assert (prompts.boxes is None) == (probability == 0)
        assert prompts.boxes is None or (prompts.boxes[~valid] == 0).all()


def test_boxes_come_as_often_as_asked() -> None:
    masks, valid = make_masks()[None], torch.ones(1, 5, dtype=torch.bool)
    drawn = generator()

    boxes = sum(sample_prompts(masks, valid, PromptSampling(0.3), drawn).boxes is not None for _ in range(400))

    assert 90 <= boxes <= 150


def test_same_seed_same_prompts() -> None:
    masks, valid = make_masks()[None], torch.ones(1, 5, dtype=torch.bool)
    for probability in (0.0, 1.0):
        first, second, other = (
            sample_prompts(masks, valid, PromptSampling(probability), generator(seed)) for seed in (7, 7, 8)
        )
        for a, b, c in zip(first, second, other, strict=True):
            assert (a is None) == (b is None) == (c is None)
            assert a is None or torch.equal(a, b)
        changed = first.boxes if first.boxes is not None else first.points
        assert not torch.equal(changed, other.boxes if other.boxes is not None else other.points)


def test_objects_are_padded_and_chosen_at_random() -> None:
    images = [make_masks(5), make_masks(2, seed=1), make_masks(5)[:0]]

    masks, valid = sample_objects(images, 3, generator())

    assert valid.tolist() == [[True] * 3, [True, True, False], [False] * 3]
    assert not masks[~valid].any()
    assert all(any(torch.equal(mask, known) for known in images[0]) for mask in masks[0])
    seen = {sample_objects(images[:1], 1, generator(seed))[0].sum().item() for seed in range(40)}
    assert seen == {int(mask.sum()) for mask in images[0]}


def test_batch_without_objects_has_one_place() -> None:
    masks, valid = sample_objects([make_masks()[:0]] * 2, 4)

    assert masks.shape == (2, 1, 24, 40)
    assert not masks.any()
    assert not valid.any()


def test_scaled_prompts_are_embedded_at_the_same_place_of_the_picture() -> None:
    torch.manual_seed(0)
    encoder = Sam2PromptEncoder(Sam2PromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16))
    height, width = 24, 40
    points = torch.tensor([[[[0.0, 0.0], [39.0, 23.0], [7.0, 11.0]]]])
    prompts = Prompts(points, torch.ones(1, 1, 3, dtype=torch.int32), points[..., 1:, :].flatten(2))

    scaled = prompts.scaled((height, width), (64, 64))
    embedded, _ = encoder(scaled.points, scaled.labels, scaled.boxes, None)

    centres = (points + 0.5) / torch.tensor([width, height])  # in [0, 1] of the picture
    expected = encoder.shared_embedding(centres)
    labels = encoder.point_embed.weight
    torch.testing.assert_close(embedded[:, :, :3], expected + labels[1])
    torch.testing.assert_close(embedded[:, :, 3:5], expected[:, :, 1:] + labels[2:4])


@pytest.mark.parametrize(
    ("field", "value"),
    [("box_probability", 1.5), ("box_noise", 0.5), ("max_noise", -1), ("correction_clicks", -1), ("max_objects", 0)],
)
def test_impossible_sampling_is_refused_by_field(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^{field}: {value}; must be "):
        PromptSampling(**{field: value})
