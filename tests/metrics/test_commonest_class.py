"""The most frequent class of each color and of each place, against counting pixel by pixel."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from eomt.metrics.commonest_class import CommonestClass

CLASSES = 4


def samples(seed: int, channels: int, gray: bool) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for size in ((64, 128), (128, 64), (64, 64)):
        # few colors, so that each comes again
        image = torch.randint(0, 6, (1 if gray else channels, *size), dtype=torch.uint8, generator=generator) * 40
        mask = torch.randint(0, CLASSES, size, generator=generator)
        mask[torch.rand(size, generator=generator) < 0.2] = 255
        found.append((image.expand(channels, *size), mask))
    return found


def commonest(pixels: list[tuple[object, int]], key: object) -> int | None:
    counts = Counter(label for place, label in pixels if place == key and label != 255)
    if not counts:
        return None
    most = max(counts.values())
    return min(label for label, count in counts.items() if count == most)


@pytest.mark.parametrize(("channels", "gray"), [(3, False), (3, True), (1, True), (5, False)])
def test_the_answer_is_the_most_frequent_class(channels: int, gray: bool) -> None:
    known, (asked, _) = samples(0, channels, gray), samples(1, channels, gray)[0]
    found = CommonestClass.of(known, CLASSES)
    assert found is not None
    assert found.is_gray is gray
    of_color, of_place = [], []
    for image, mask in known:
        height, width = mask.shape
        for y in range(height):
            for x in range(width):
                of_color.append((tuple(image[:3, y, x].tolist()), int(mask[y, x])))
                of_place.append(((y * 64 // height, x * 64 // width), int(mask[y, x])))
    everywhere = commonest([((), label) for _, label in of_place], ())
    by_color, by_place = found.by_color(asked), found.by_place(asked)
    for y, x in ((0, 0), (5, 77), (63, 127), (31, 3), (40, 100)):
        wanted = commonest(of_color, tuple(asked[:3, y, x].tolist()))
        assert by_color[y, x] == (everywhere if wanted is None else wanted)
        wanted = commonest(of_place, (y, x * 64 // 128))
        assert by_place[y, x] == (everywhere if wanted is None else wanted)


def test_a_color_that_was_never_seen_gets_the_most_frequent_class_of_all() -> None:
    mask = torch.full((8, 8), 2)
    mask[0] = 1
    found = CommonestClass.of([(torch.full((3, 8, 8), 7, dtype=torch.uint8), mask)], CLASSES)
    assert found is not None
    assert (found.by_color(torch.full((3, 4, 4), 200, dtype=torch.uint8)) == 2).all()


def test_colors_are_kept_apart_where_one_image_has_any() -> None:
    red, gray = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8)
    red[0] = 200
    found = CommonestClass.of([(gray, torch.zeros(8, 8).long()), (red, torch.ones(8, 8).long())], CLASSES)
    assert found is not None
    assert not found.is_gray
    assert (found.by_color(red) == 1).all()
    assert (found.by_color(gray) == 0).all()


def test_large_images_are_thinned_out_and_nothing_known_is_no_answer() -> None:
    image = torch.zeros(3, 2048, 1024, dtype=torch.uint8)
    image[:, 1024:] = 255
    mask = (image[0] > 0).long()
    found = CommonestClass.of([(image, mask)], CLASSES)
    assert found is not None
    assert torch.equal(found.by_color(image), mask)
    assert torch.equal(found.by_place(image), mask)
    assert CommonestClass.of([(image, torch.full_like(mask, 255))], CLASSES) is None
    assert CommonestClass.of([], CLASSES) is None
