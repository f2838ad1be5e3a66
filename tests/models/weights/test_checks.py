"""Tensors that are compared with those of a network, by name and by shape."""

import pytest
import torch

from eomt.errors import UserError
from eomt.models.weights.checks import check_tensors

OWN = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1)}


def test_equal_names_and_shapes_pass_whatever_their_order_and_dtype() -> None:
    found = {name: torch.ones_like(OWN[name], dtype=torch.int8) for name in "cab"}
    check_tensors(found, OWN, "file", "the network")
    # shapes do as well
    check_tensors({name: value.shape for name, value in found.items()}, OWN, "file", "the network")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": None}, "file: lacks 'b' of the network; copy it again, or give other weights"),
        (
            {"a": None, "c": None},
            "file: lacks 'a' and 1 more tensors of the network; copy it again, or give other weights",
        ),
        (
            {"x": torch.zeros(1), "d": torch.zeros(1), "y": torch.zeros(1)},
            "file: holds 'd' and 2 more tensors, which the network has not; copy it again, or give other weights",
        ),
        (
            {"a": torch.zeros(3, 2), "b": torch.zeros(5)},
            "file: 'a' has shape [3, 2], the network has [2, 3]; copy it again, or give other weights",
        ),
        # what is missing is said first
        ({"b": None, "d": torch.zeros(1)}, "file: lacks 'b' of the network; copy it again, or give other weights"),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, torch.Tensor | None], message: str) -> None:
    found = {name: value for name, value in (OWN | changes).items() if value is not None}
    with pytest.raises(UserError) as caught:
        check_tensors(found, OWN, "file", "the network")
    assert str(caught.value) == message
