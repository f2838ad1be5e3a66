"""Heads: what they compute, and what they refuse."""

import pytest
import torch
from torch import nn

from eomt.errors import UserError
from eomt.models.heads import CosineClassifier, MorphClassifier, ProjectionHead


@pytest.mark.parametrize(("hidden", "expected"), [(None, 12), (7, 7)])
def test_a_projection_has_one_hidden_layer_as_wide_as_the_input_unless_given(hidden: int | None, expected: int) -> None:
    head = ProjectionHead(12, 5, hidden)
    shapes = [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
    assert shapes == [(expected, 12), (5, expected)]
    assert head(torch.randn(3, 12)).shape == (3, 5)


def test_the_classifier_is_not_linear_and_drops_only_in_training() -> None:
    head, x = MorphClassifier(12, 8).eval(), torch.randn(3, 12)
    assert head(x).shape == (3, 2)
    assert torch.equal(head(x), head(x))
    assert not torch.allclose(head(x) + head(-x), 2 * head(torch.zeros(3, 12)), atol=1e-4)
    head.train()
    assert not torch.equal(head(x), head(x))


def test_cosines_depend_on_angles_only_and_are_scaled() -> None:
    head, x = CosineClassifier(6, 2, scale=10.0), torch.randn(4, 6)
    expected = torch.stack([nn.functional.cosine_similarity(x, row[None]) for row in head.weight], dim=1)
    # cosines of six terms in fp32, times ten: some 10 * 6 * 1.2e-7 at most
    torch.testing.assert_close(head(x), 10 * expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(head(100 * x), head(x), rtol=0, atol=1e-4)


def test_cosines_keep_fp32_under_autocast() -> None:
    head, x = CosineClassifier(64), torch.randn(4, 64)
    expected = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(x), expected)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ProjectionHead(4, 0), "proj_dim: 0"),
        (lambda: ProjectionHead(4, 4, 0), "proj_hidden_dim: 0"),
        (lambda: MorphClassifier(4, 0), "cls_hidden_dim: 0"),
        (lambda: CosineClassifier(4, scale=0), "scale: 0"),
    ],
)
def test_values_that_cannot_be_are_refused(make: object, field: str) -> None:
    with pytest.raises(UserError, match=f"{field}, must be"):
        make()  # type: ignore[operator]
