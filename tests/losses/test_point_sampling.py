"""Interpolation without dense masks against `grid_sample` with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eomt.losses.point_sampling import (
    as_rows,
    labels_around,
    least,
    neighbors,
    sample_each,
    sample_shared,
    shares_of,
    spread_each,
    take_points,
)
from eomt.utils.labels import IGNORE_INDEX


def points_everywhere(num_points: int) -> Tensor:
    corners = torch.cartesian_prod(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
    return torch.cat([corners, torch.rand(num_points, 2)])


def grid_sample_at(maps: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(maps[None], 2 * points[None, None] - 1, align_corners=False)[0, :, 0]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1024, 1537)])
def test_shares_equal_grid_sample_on_dense_masks(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    classes = torch.tensor([0, 3, 9])
    labels = torch.cat([classes, torch.tensor([IGNORE_INDEX])])
    mask = labels[torch.randint(0, 4, size)]
    points = points_everywhere(500)

    around, weight = labels_around(mask[None], points[None])
    shares, known = shares_of(around[0], weight[0], classes)

    dense = (mask == labels[:, None, None]).float()
    of_each = grid_sample_at(dense, points)
    torch.testing.assert_close(shares, of_each[:-1], atol=1e-6, rtol=0)
    # what lies outside is neither known nor unknown
    torch.testing.assert_close(known, 1 - of_each[-1] / of_each.sum(0), atol=1e-5, rtol=0)
    assert (known == 1).any() or size == (1, 1)


def test_shares_of_nothing_are_those_of_ignored_pixels() -> None:
    labels, weight = torch.full((3, 4), IGNORE_INDEX), torch.full((3, 4), 0.25)

    shares, known = shares_of(labels, weight, torch.tensor([], dtype=torch.int64))

    assert shares.shape == (0, 3)
    assert known.tolist() == [0, 0, 0]


def test_shared_and_own_points_equal_grid_sample() -> None:
    torch.manual_seed(0)
    maps, points = torch.randn(3, 6, 9), points_everywhere(200)
    expected = grid_sample_at(maps, points)

    shared = sample_shared(as_rows(maps), *neighbors(points, 6, 9))
    each = sample_each(maps, points.expand(3, -1, -1).flip(1))

    torch.testing.assert_close(shared.t(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(each.flip(1), expected, atol=1e-5, rtol=0)


def test_spreading_is_the_gradient_of_sampling() -> None:
    torch.manual_seed(0)
    maps = torch.randn(3, 6, 9, dtype=torch.float64, requires_grad=True)
    points = torch.stack([points_everywhere(20) for _ in maps]).double()
    gradient = torch.randn(3, 29, dtype=torch.float64)

    (expected,) = torch.autograd.grad(sample_each(maps, points), maps, gradient)

    assert expected.abs().max() > 0.1
    assert torch.equal(spread_each(gradient, points, maps), expected)


def test_points_are_taken_by_index() -> None:
    torch.manual_seed(0)
    points, chosen = torch.rand(20, 2), torch.randint(0, 20, (3, 8))

    assert torch.equal(take_points(points, chosen), points[chosen])


@pytest.mark.parametrize("count", [0, 1, 1300, 4000])
def test_the_least_are_found(count: int) -> None:
    values = torch.randn(5, 4000, generator=torch.Generator().manual_seed(0))
    values[0, 7], values[1, ::2] = torch.inf, torch.inf

    found = least(values, count)

    assert found.shape == (5, count)
    assert torch.equal(values.gather(1, found).sort().values, values.sort().values[:, :count])
