"""The table of names: placeholders, spellings, sums and copies, there and back, and what is in no row."""

import pytest
import torch
from torch import Tensor

from eomt.models.weights.renaming import RenamingTable

TABLE = """
blocks.#.norm#      layers.#.layer_norm#
*_head.last         heads.*.(final|last)
stem(|.conv)        patches

q + k + v           attn.qkv
positions           first.positions = second.positions
"""


def state(*names: str, rows: int = 1) -> dict[str, Tensor]:
    return {name: torch.full((rows, 2), float(index)) for index, name in enumerate(names)}


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("blocks.11.norm2.weight", "layers.11.layer_norm2.weight"),
        ("blocks.0.norm1", "layers.0.layer_norm1"),
        ("mask_head.last.bias", "heads.mask.final.bias"),
        ("stem.weight", "patches.weight"),
    ],
)
def test_a_name_is_renamed_there_and_back(left: str, right: str) -> None:
    table = RenamingTable(TABLE, strict=True)
    there = table.forwards(state(left))
    assert list(there) == [right]
    assert list(table.backwards(there)) == [left]
    assert table.holds(left)
    assert table.holds(right)


def test_every_spelling_is_read_and_the_first_is_written() -> None:
    table = RenamingTable(TABLE)
    assert list(table.backwards(state("heads.mask.last.bias"))) == ["mask_head.last.bias"]
    assert list(table.forwards(state("stem.conv.weight"))) == ["patches.weight"]
    assert list(table.backwards(state("patches"))) == ["stem"]


@pytest.mark.parametrize("name", ["blocks.x.norm1", "blocks.0.norm1.scale", "heads.a.b.final", "stemXconv", "blocks_0"])
def test_what_no_row_has_stays_or_is_refused(name: str) -> None:
    assert list(RenamingTable(TABLE).forwards(state(name))) == [name]
    assert list(RenamingTable(TABLE).backwards(state(name))) == [name]
    assert not RenamingTable(TABLE).holds(name)
    with pytest.raises(KeyError, match=name):
        RenamingTable(TABLE, strict=True).forwards(state(name))


@pytest.mark.parametrize("ending", [".weight", ".bias"])
def test_a_sum_is_put_together_in_its_order_and_taken_apart(ending: str) -> None:
    table = RenamingTable(TABLE, strict=True)
    parts = state(*(part + ending for part in "vkq"), rows=2)
    whole = table.forwards(parts)
    assert list(whole) == ["attn.qkv" + ending]
    assert whole["attn.qkv" + ending][:, 0].tolist() == [2, 2, 1, 1, 0, 0]
    back = table.backwards(whole)
    assert back.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in back.items())


def test_a_sum_without_one_of_its_parts_stays_or_is_refused() -> None:
    parts = state("q.weight", "v.weight", "k.bias", "q.bias", "v.bias")
    found = RenamingTable(TABLE).forwards(parts)
    assert set(found) == {"q.weight", "v.weight", "attn.qkv.bias"}
    with pytest.raises(KeyError, match=r"k\.weight"):
        RenamingTable(TABLE, strict=True).forwards(parts)


def test_copies_are_tensors_of_their_own_and_any_is_read() -> None:
    table = RenamingTable(TABLE, strict=True)
    there = table.forwards(state("positions"))
    assert list(there) == ["first.positions", "second.positions"]
    assert there["first.positions"].data_ptr() != there["second.positions"].data_ptr()
    for name in there:
        assert torch.equal(table.backwards({name: there[name]})["positions"], there[name])


def test_the_first_row_that_fits_is_taken() -> None:
    table = RenamingTable("a.weight  b\na  c")
    assert list(table.forwards(state("a.weight", "a.bias"))) == ["b", "c.bias"]
