"""Interpolation without dense masks against `grid_sample` with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.losses.point_sampling import class_indicator, neighbors, sample_each, sample_shared


def points_everywhere(num_points: int) -> Tensor:
    corners = torch.cartesian_prod(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
    return torch.cat([corners, torch.rand(num_points, 2)])


def grid_sample_at(maps: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(maps[None], 2 * points[None, None] - 1, align_corners=False)[0, :, 0]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1024, 1537)])
def test_class_indicator_equals_grid_sample_on_dense_masks(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mask = torch.randint(0, 4, size)
    points = points_everywhere(500)
    classes = torch.tensor([0, 3, 9])
    index, weight = neighbors(points, *size)

    indicator = class_indicator(mask.flatten()[index], weight, classes)

    dense = (mask == classes[:, None, None]).float()
    torch.testing.assert_close(indicator, grid_sample_at(dense, points), atol=1e-6, rtol=0)


def test_shared_and_own_points_equal_grid_sample() -> None:
    torch.manual_seed(0)
    maps, points = torch.randn(3, 6, 9), points_everywhere(200)
    expected = grid_sample_at(maps, points)

    shared = sample_shared(maps, *neighbors(points, 6, 9))
    each = sample_each(maps, points.expand(3, -1, -1).flip(1))

    torch.testing.assert_close(shared.t(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(each.flip(1), expected, atol=1e-5, rtol=0)
