import numpy as np
import pytest
from scipy import ndimage

from datamodules.objects.polygons import polygon_mask
from eomt.errors import UserError
from eomt.results.polygons import mask_polygons, one_polygon


def masks(count: int) -> list[np.ndarray]:
    """Return masks of all kinds: noise, areas with holes, single pixels."""
    random = np.random.default_rng(0)
    found = []
    while len(found) < count:
        mask = random.random(random.integers(1, 40, 2)) < random.random()
        mask = ndimage.binary_closing(mask) if len(found) % 2 else mask
        if mask.any():
            found.append(mask)
    return found


def test_polygons_of_any_mask_give_just_its_pixels_back() -> None:
    for mask in masks(60):
        np.testing.assert_array_equal(polygon_mask(mask_polygons(mask), mask.shape, "x"), mask)
        np.testing.assert_array_equal(polygon_mask([one_polygon(mask)], mask.shape, "x"), mask)


def test_a_rectangle_has_four_corners_and_a_hole_a_seam() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:7, 1:8] = True
    np.testing.assert_array_equal(one_polygon(mask), [[1, 2], [8, 2], [8, 7], [1, 7]])
    mask[4, 4] = False
    # its own four corners, the hole's, and the three ends of the way there and back
    assert len(one_polygon(mask)) == 4 + 4 + 2


def test_a_polygon_fills_the_pixels_whose_middle_it_holds() -> None:
    triangle = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    rows, columns = np.mgrid[:8, :8] + 0.5
    inside = rows + columns < 8
    difference = polygon_mask([triangle], (8, 8), "x") ^ inside
    # its long side goes right through the middles of pixels
    assert not difference[rows + columns != 8].any()


def test_what_is_thinner_than_a_pixel_has_the_pixels_of_its_points() -> None:
    thin = np.array([[2.1, 3.1], [2.3, 3.1], [2.2, 3.2]])
    assert np.argwhere(polygon_mask([thin], (6, 6), "x")).tolist() == [[3, 2]]


def test_a_polygon_that_leaves_the_image_a_little_is_cut_off() -> None:
    square = np.array([[-1.0, -1.0], [4.0, -1.0], [4.0, 4.0], [-1.0, 4.0]])
    assert polygon_mask([square], (40, 40), "x").sum() == 16


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([[1, 1], [5, 5]], "a.json: a polygon of 2 points; it needs 3"),
        ([[1, 1], [5, 5], [5, 90]], r"a.json: point \(5, 90\) is outside of the image of 20 x 30"),
        ([[1, 1], [5, 5], [-9, 3]], r"a.json: point \(-9, 3\) is outside"),
        ([[1, 1], [5, 5], [float("nan"), 3]], r"a.json: point .* is outside"),
    ],
)
def test_impossible_polygons_are_named(polygon: list[list[float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        polygon_mask([np.array(polygon, dtype=float)], (20, 30), "a.json")
