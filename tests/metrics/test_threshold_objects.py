import numpy as np
import pytest
import torch

from eomt.metrics.threshold_objects import otsu_threshold, threshold_objects


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_has_the_largest_variance_between_both_kinds(seed: int) -> None:
    random = np.random.default_rng(seed)
    gray = np.concatenate([random.normal(60, 20, 300), random.normal(150, 30, 200)]).clip(0, 255).astype(np.uint8)

    def between(level: int) -> float:
        dark, bright = gray[gray <= level], gray[gray > level]
        return len(dark) * len(bright) * (dark.mean() - bright.mean()) ** 2 if len(dark) and len(bright) else 0.0

    assert between(otsu_threshold(gray[None])) == pytest.approx(max(map(between, range(256))))


@pytest.mark.parametrize(("ground", "objects"), [(30, 200), (200, 30)])
def test_components_of_the_smaller_part_by_falling_size(ground: int, objects: int) -> None:
    image = torch.full((3, 20, 20), ground, dtype=torch.uint8)
    image[:, 1:3, 1:3] = image[:, 3, 3] = objects  # touch at a corner
    image[:, 8:14, 8:14] = objects
    image[:, 18, 18] = objects
    found = threshold_objects(image, 2)
    assert found.areas.tolist() == [36, 5]
    assert found.dense()[1, 3, 3]


def test_an_image_of_one_color_has_no_objects() -> None:
    assert threshold_objects(torch.full((3, 5, 5), 9, dtype=torch.uint8), 4).dense().shape == (0, 5, 5)
