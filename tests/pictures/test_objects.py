import numpy as np
import pytest
import torch
from scipy import ndimage

from eomt.pictures.colors import palette
from eomt.pictures.objects import colors_of, draw_objects, outline
from eomt.utils.packed_masks import paint


def two_squares() -> torch.Tensor:
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 2:14, 2:14] = masks[1, 8:12, 8:18] = True
    return masks


def test_outlines_have_the_full_color_and_lie_on_top_of_other_objects() -> None:
    image, masks = torch.full((3, 20, 20), 100, dtype=torch.uint8), two_squares()
    colors = [(255, 0, 0), (0, 0, 255)]
    drawn = draw_objects(image, masks, colors).permute(1, 2, 0)
    assert drawn[2, 5].tolist() == [255, 0, 0]
    assert drawn[10, 13].tolist() == [255, 0, 0]  # the larger one's outline, where the smaller one covers it
    assert drawn[8, 10].tolist() == [0, 0, 255]
    # inside, the image shines through
    assert 100 < drawn[5, 5, 0] < 255
    assert drawn[17, 3].tolist() == [100, 100, 100]
    assert image.eq(100).all()


def test_small_images_are_enlarged_before_texts_are_written() -> None:
    image, masks = torch.zeros(3, 20, 20, dtype=torch.uint8), two_squares()
    colors = palette(2)
    bare = draw_objects(image, masks, colors, least_width=90)
    written = draw_objects(image, masks, colors, ["0.93", ""], least_width=90)
    assert bare.shape == written.shape == (3, 100, 100)
    changed = (bare != written).any(0).nonzero()
    assert len(changed)
    assert changed[:, 0].float().mean().sub(40).abs() < 8


def test_no_object_leaves_the_image() -> None:
    image = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    assert torch.equal(draw_objects(image, torch.zeros(0, 8, 8).bool(), []), image)


def test_the_edge_of_the_image_is_no_outline() -> None:
    mask = torch.ones(5, 5, dtype=torch.bool).numpy()
    assert not outline((0, 0, mask), mask.shape)[2].any()
    mask[:, 0] = False
    assert outline((0, 0, mask), mask.shape)[2].sum() == 5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thickness", [1, 2])
def test_the_outline_of_a_part_is_that_of_the_whole_mask(seed: int, thickness: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((20, 30), dtype=bool)
    (top, bottom), (left, right) = (np.sort(random.choice(length + 1, 2, replace=False)) for length in mask.shape)
    mask[top:bottom, left:right] = random.random((bottom - top, right - left)) < 0.95
    expected = mask & ~ndimage.binary_erosion(mask, iterations=thickness, border_value=1)
    found = np.zeros_like(mask)
    paint(found, outline((int(top), int(left), mask[top:bottom, left:right]), mask.shape, thickness), True)
    assert (found == expected).all()


def test_objects_of_one_class_have_colors_of_their_own() -> None:
    assert len(set(colors_of([0, 0, 0], 1))) == 3
    assert len(colors_of([0] * 50, 1)) == 50
    assert colors_of([2, 0, 2], 3) == [palette(3)[2], palette(3)[0], palette(3)[2]]


def written_rows(texts: list[str], masks: torch.Tensor) -> torch.Tensor:
    """Return which rows of a black picture texts change."""
    image, black = torch.zeros(3, *masks.shape[1:], dtype=torch.uint8), [(0, 0, 0)] * len(masks)
    return draw_objects(image, masks, black, texts).flatten(2).any(0).any(1)


def test_no_text_stands_on_another() -> None:
    masks = torch.zeros(2, 120, 120, dtype=torch.bool)
    masks[:, 10:110, 10:110] = True
    one = written_rows(["0.93", ""], masks)
    both = written_rows(["0.93", "0.87"], masks)
    # the second one has rows of its own, with a gap between
    assert both[one].all()
    assert both.sum() > 1.8 * one.sum()
    edges = both.to(torch.int8).diff()
    assert (edges == 1).sum() == 2


def test_a_text_without_a_free_place_is_left_out_and_the_first_one_stays() -> None:
    masks = torch.zeros(2, 60, 60, dtype=torch.bool)
    masks[:, 29:32, 29:32] = True
    assert torch.equal(written_rows(["0.93", "0.87"], masks), written_rows(["0.93", ""], masks))


def test_texts_grow_with_their_share() -> None:
    image, mask = torch.zeros(3, 200, 200, dtype=torch.uint8), torch.ones(1, 200, 200, dtype=torch.bool)
    small, large = (
        draw_objects(image, mask, [(0, 0, 0)], ["0.5"], text_share=share).any(0).any(1).sum() for share in (0.02, 0.2)
    )
    assert large > 2.5 * small


def test_outlines_are_those_of_whole_masks() -> None:
    torch.manual_seed(0)
    masks = torch.rand(6, 37, 41) > torch.tensor([0.5, 0.9, 0.99, 0.1, 0.5, 1.0])[:, None, None]
    image = torch.zeros(3, 37, 41, dtype=torch.uint8)
    for mask in masks:
        drawn = draw_objects(image, mask[None], [(0, 0, 250)], alpha=0, least_width=300)
        large = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
        edge = large & ~torch.from_numpy(ndimage.binary_erosion(large.numpy(), iterations=2, border_value=1))
        assert torch.equal(drawn[2] == 250, edge)
