"""Prompts for evaluation: always the same, always on the object, for every object."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from eomt.prompts import MODES, PADDING_LABEL, Prompts, evaluation_prompts, stack_prompts
from eomt.prompts.evaluation_prompts import interior_point

CLASS_IDS = [1, 2, 3, 4]


def make_masks(seed: int = 0, size: tuple[int, int] = (16, 50)) -> Tensor:
    """Return blobs, a ring, a mask along the border and a single pixel, `(4, H, W)`."""
    masks = torch.zeros(4, *size, dtype=torch.bool)
    masks[0] = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.7
    masks[1, 2:13, 20:33] = True
    masks[1, 4:11, 22:31] = False
    masks[2, :3] = True
    masks[3, 9, 41] = True
    return masks


def assert_same(first: Prompts, second: Prompts) -> None:
    for a, b in zip(first, second, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or (torch.equal(a, b) and a.dtype == b.dtype)


def furthest_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    """Return (x, y) of all pixels that are furthest from what is off the mask or off the image, row by row."""
    height, width = mask.shape
    inside = {(x, y) for y in range(height) for x in range(width) if mask[y, x]}
    outside = {(x, y) for y in range(-1, height + 1) for x in range(-1, width + 1)} - inside
    distance = {p: min((p[0] - x) ** 2 + (p[1] - y) ** 2 for x, y in outside) for p in inside}
    most = max(distance.values())
    return sorted((p for p in inside if distance[p] == most), key=lambda p: (p[1], p[0]))


@pytest.mark.parametrize("index", range(4))
def test_centre_is_the_first_of_the_furthest_pixels(index: int) -> None:
    mask = make_masks()[index]

    prompts = evaluation_prompts(mask[None], "a.png", [1], "centre")

    assert prompts.points is not None
    assert tuple(prompts.points[0, 0].tolist()) == furthest_pixels(mask.numpy())[0]


@pytest.mark.parametrize("mode", ["centre", "points"])
def test_points_lie_on_their_object_also_on_a_single_pixel(mode: str) -> None:
    masks = make_masks()

    prompts = evaluation_prompts(masks, "a.png", CLASS_IDS, mode)

    assert prompts.points is not None
    assert prompts.labels is not None
    assert prompts.points.shape == (4, {"centre": 1, "points": 3}[mode], 2)
    for mask, points in zip(masks, prompts.points.long(), strict=True):
        assert mask[points[:, 1], points[:, 0]].all()
    assert (prompts.labels == 1).all()
    assert (prompts.points[3] == torch.tensor([41.0, 9.0])).all()


def test_boxes_are_tight_and_no_prompt_is_labelled_so() -> None:
    boxes = evaluation_prompts(make_masks()[1:], "a.png", CLASS_IDS[1:], "box")
    nothing = evaluation_prompts(make_masks(), "a.png", CLASS_IDS, "none")

    assert boxes.points is boxes.labels is None
    assert boxes.boxes is not None
    assert boxes.boxes.tolist() == [[20, 2, 32, 12], [0, 0, 49, 2], [41, 9, 41, 9]]
    assert nothing.labels is not None
    assert nothing.labels.tolist() == [[-1]] * 4


@pytest.mark.parametrize("mode", MODES)
def test_prompts_of_an_object_do_not_depend_on_the_others(mode: str) -> None:
    masks, order = make_masks(), [2, 0, 3]

    all_of_them = evaluation_prompts(masks, "a.png", CLASS_IDS, mode)
    some = evaluation_prompts(masks[order], "a.png", [CLASS_IDS[i] for i in order], mode)

    assert_same(some, Prompts(*(None if part is None else part[order] for part in all_of_them)))


def test_points_depend_on_name_class_and_seed_and_not_on_the_random_state() -> None:
    masks = make_masks()[:1]
    torch.manual_seed(0)
    first = evaluation_prompts(masks, "a.png", [1], "points").points
    torch.manual_seed(1)
    again = evaluation_prompts(masks, "a.png", [1], "points").points
    others = [
        evaluation_prompts(masks, "b.png", [1], "points").points,
        evaluation_prompts(masks, "a.png", [2], "points").points,
        evaluation_prompts(masks, "a.png", [1], "points", seed=1).points,
        # what runs together if name and class are only written behind each other
        evaluation_prompts(masks, "a.png1", [1], "points").points,
        evaluation_prompts(masks, "a.png", [11], "points").points,
    ]

    assert torch.equal(first, again)
    assert len({tuple(points.flatten().tolist()) for points in [first, *others]}) == 6


def test_points_are_the_same_in_another_process() -> None:
    program = (
        "import torch\n"
        "from eomt.prompts import evaluation_prompts\n"
        "print(evaluation_prompts(torch.ones(1, 99, 99) > 0, 'a.png', [3], 'points').points.tolist())"
    )
    here = evaluation_prompts(torch.ones(1, 99, 99) > 0, "a.png", [3], "points").points
    root = Path(__file__).parents[2]

    there = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)

    assert here is not None
    assert there.stdout.strip() == str(here.tolist())


def test_points_are_uniform_in_the_mask() -> None:
    mask = make_masks()[1]
    drawn = [evaluation_prompts(mask[None], f"{i}.png", [1], "points").points for i in range(3000)]
    x, y = torch.cat([points.flatten(0, 1) for points in drawn if points is not None]).long().unbind(dim=1)

    counts = torch.bincount(y * mask.shape[1] + x, minlength=mask.numel()).view(mask.shape)

    torch.testing.assert_close(counts / 9000, mask / mask.sum(), atol=0.005, rtol=0)


@pytest.mark.parametrize("mode", ["box", "centre", "points"])
def test_stacked_images_keep_their_prompts(mode: str) -> None:
    whole = evaluation_prompts(make_masks(), "a.png", CLASS_IDS, mode)
    part = evaluation_prompts(make_masks()[1:3], "b.png", [2, 3], mode)
    absent = evaluation_prompts(make_masks()[:0], "c.png", [], mode)

    batch = stack_prompts([whole, part, absent])

    for image, count, alone in ((0, 4, whole), (1, 2, part), (2, 0, absent)):
        assert_same(Prompts(*(None if values is None else values[image, :count] for values in batch)), alone)
        assert batch.labels is None or (batch.labels[image, count:] == PADDING_LABEL).all()


def test_interior_point_of_every_small_mask_lies_in_it() -> None:
    for bits in range(1, 2**9):
        mask = np.array([bits >> i & 1 for i in range(9)], dtype=bool).reshape(3, 3)
        x, y = interior_point(mask)
        assert (x, y) == furthest_pixels(mask)[0]
