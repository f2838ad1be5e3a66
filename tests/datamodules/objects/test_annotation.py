"""What is known of an image with objects."""

import numpy as np
import pytest
from scipy import ndimage

from datamodules.objects.annotation import EIGHT_NEIGHBORS, Grouping, Objects, crop_mask, group_objects

SIZE = (13, 17)


def random_masks(seed: int, number: int = 6) -> np.ndarray:
    """Return masks that overlap and are in several pieces, none of them empty, (N, H, W) bool."""
    random = np.random.default_rng(seed)
    masks = random.random((number, *SIZE)) < 0.15
    masks[:, 3, 4] = True
    return masks


@pytest.mark.parametrize("seed", range(3))
def test_cropped_masks_are_the_masks(seed: int) -> None:
    masks = random_masks(seed)
    objects = Objects.from_masks(SIZE, masks, np.arange(6) % 3)
    assert (objects.masks == masks).all()
    assert objects.areas.tolist() == masks.sum((1, 2)).tolist()
    assert all(part.pixels.any(0)[[0, -1]].all() and part.pixels.any(1)[[0, -1]].all() for part in objects.cropped)
    chosen = objects.where(np.array([4, 1]))
    assert (chosen.masks == masks[[4, 1]]).all()
    assert chosen.class_ids.tolist() == [1, 1]


def test_an_image_may_show_nothing() -> None:
    objects = Objects.from_masks(SIZE, [], [])
    assert objects.masks.shape == (0, *SIZE)
    for how in ("instance", "component", "class"):
        assert len(group_objects(objects, how)) == 0


def test_an_empty_mask_is_no_object() -> None:
    with pytest.raises(AssertionError, match="empty"):
        crop_mask(np.zeros(SIZE, dtype=bool))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_a_map_gives_the_segments_that_it_shows(kind: type) -> None:
    segments = np.random.default_rng(0).integers(0, 5, SIZE).astype(kind) * 40
    # 200 fills no pixel, 0 is no object
    objects = Objects.from_map(segments, {160: 0, 40: 2, 200: 1, 80: 0, 120: 1}, crowds={80})
    assert objects.class_ids.tolist() == [0, 2, 0, 1]
    assert objects.is_crowd.tolist() == [False, False, True, False]
    assert (objects.masks == np.stack([segments == segment for segment in (160, 40, 80, 120)])).all()


def test_a_map_may_show_nothing() -> None:
    assert len(Objects.from_map(np.zeros(SIZE, dtype=np.uint8), {})) == 0
    assert len(Objects.from_map(np.full(SIZE, 7, dtype=np.uint8), {1: 0})) == 0


@pytest.mark.parametrize("how", ["instance", "component", "class"])
@pytest.mark.parametrize("seed", range(3))
def test_objects_are_grouped_as_a_plain_loop_groups_them(how: Grouping, seed: int) -> None:
    masks, class_ids = random_masks(seed), np.array([2, 0, 2, 1, 1, 2])
    is_crowd = np.array([False, True, False, False, True, True])
    found = group_objects(Objects.from_masks(SIZE, masks, class_ids, is_crowd), how)

    expected: list[tuple[int, bool, bytes]] = []
    if how == "instance":
        expected = [
            (label, crowd, mask.tobytes()) for label, crowd, mask in zip(class_ids, is_crowd, masks, strict=True)
        ]
    for label in range(3) if how != "instance" else ():
        of_class = class_ids == label
        if how == "class":
            expected.append((label, False, masks[of_class].any(0).tobytes()))
            continue
        numbers, number = ndimage.label(masks[of_class & ~is_crowd].any(0), EIGHT_NEIGHBORS)
        expected += [(label, False, (numbers == index + 1).tobytes()) for index in range(number)]
        expected += [(label, True, mask.tobytes()) for mask in masks[of_class & is_crowd]]
    assert [
        (a, b, m.tobytes()) for a, b, m in zip(found.class_ids, found.is_crowd, found.masks, strict=True)
    ] == expected
