"""A fingerprint tells bases apart, and takes one that was rounded to 16 bits for the same."""

import copy

import pytest
import torch
from torch import nn

from eomt.lora.fingerprint import _spread, fingerprint, same_base
from tests.tiny import make_eomt


def test_fingerprint_tells_bases_apart_and_accepts_rounding() -> None:
    model = make_eomt()
    ours = fingerprint(model, ["class_head", "mask_head.0"])
    assert same_base(ours, fingerprint(copy.deepcopy(model).bfloat16(), list(ours))) is None
    assert same_base(ours, fingerprint(copy.deepcopy(model).half(), list(ours))) is None
    other = same_base(fingerprint(make_eomt(), list(ours)), ours)
    assert other is not None
    assert "class_head" in other


def test_fingerprint_of_a_matrix_beyond_what_fp32_counts() -> None:
    # 2**24 + 4 entries, whose last place fp32 rounds to one past the end
    model = nn.ModuleDict({"layer": nn.Linear(4, 2**22 + 1, bias=False)})
    nn.init.zeros_(model["layer"].weight)
    with torch.no_grad():
        model["layer"].weight[0, 0], model["layer"].weight[-1, -1] = 1.0, 2.0
    entries = fingerprint(model, ["layer"])["layer"]["entries"]
    assert (len(entries), entries[0], entries[-1], sum(entries)) == (64, 1.0, 2.0, 3.0)


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 4096, 147456, 2**24 - 1, 2**24, 2**24 + 1, 3 * 2**25 + 7])
def test_fingerprint_places_are_inside_and_distinct(size: int) -> None:
    places = _spread(size, min(64, size)).tolist()
    assert places[0] == 0
    assert places[-1] == size - 1
    assert places == sorted(set(places))
