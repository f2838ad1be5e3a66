from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.common import grouped_splits
from datamodules.common.grouped_splits import Group, content_keys, group_copies, grouped_split, refuse_overlap
from eomt.errors import UserError


def random_groups(number: int = 400, seed: int = 0) -> list[Group]:
    """Return groups of one to three images, with classes as unequal as Severstal's, and clean ones."""
    random = np.random.default_rng(seed)
    groups, image = [], 0
    for _ in range(number):
        size = random.choice([1, 1, 1, 1, 2, 3])
        classes = [int(c) for c in np.flatnonzero(random.random(4) < [0.12, 0.04, 0.5, 0.1])]
        groups.append(Group(tuple(f"{image + k:04d}.jpg" for k in range(size)), frozenset(classes)))
        image += size
    return groups


@pytest.mark.parametrize("seed", range(5))
def test_every_class_has_its_share_in_every_split(seed: int) -> None:
    groups = random_groups(seed=seed)
    record = grouped_split(groups, 0.15, 0.25, seed)
    split_of = {name: split for split, names in record.items() for name in names}
    counts = Counter((split_of[name], c) for group in groups for name in group.names for c in group.classes or {-1})
    for class_id in range(-1, 4):
        total = sum(counts[split, class_id] for split in record)
        for split, fraction in {"train": 0.6, "val": 0.15, "test": 0.25}.items():
            assert abs(counts[split, class_id] - fraction * total) <= 3


def test_groups_stay_together_and_every_image_has_one_split() -> None:
    groups = random_groups()
    record = grouped_split(groups, 0.2, 0.2, 0)
    split_of = {name: split for split, names in record.items() for name in names}
    assert sum(map(len, record.values())) == len(split_of) == sum(len(group.names) for group in groups)
    assert all(len({split_of[name] for name in group.names}) == 1 for group in groups)


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    groups = random_groups()
    assert grouped_split(groups, 0.2, 0.2, 0) == grouped_split(groups[::-1], 0.2, 0.2, 0)
    assert grouped_split(groups, 0.2, 0.2, 0) != grouped_split(groups, 0.2, 0.2, 1)


def test_a_fraction_of_zero_gives_an_empty_split() -> None:
    assert grouped_split(random_groups(), 0.2, 0.0, 0)["test"] == []


def write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_keys_are_equal_just_where_the_bytes_are(tmp_path: Path) -> None:
    contents = {"a": b"12", "b": b"34", "c": b"12", "d": b"123", "e": b"34", "f": b""}
    keys = content_keys(write(tmp_path, contents))
    for one, first in zip(keys, contents.values(), strict=True):
        for other, second in zip(keys, contents.values(), strict=True):
            assert (one == other) == (first == second)


def test_copies_are_grouped_with_the_classes_of_all_of_them(tmp_path: Path) -> None:
    files = write(tmp_path, {"b": b"12", "x": b"34", "a": b"12"})
    groups = group_copies(["b", "x", "a"], files, [frozenset({1}), frozenset(), frozenset({2, 3})])
    assert groups == [Group(("a", "b"), frozenset({1, 2, 3})), Group(("x",), frozenset())]


def test_an_image_in_two_splits_is_refused_and_copies_within_one_are_not(tmp_path: Path) -> None:
    a, b, c = write(tmp_path, {"a.jpg": b"12", "b.jpg": b"34", "c.jpg": b"12"})
    refuse_overlap({"train": [a, c], "val": [b]})
    with pytest.raises(UserError, match=r"c\.jpg: in val, is a copy of .*a\.jpg in train"):
        refuse_overlap({"train": [a, b], "val": [c]})


@pytest.mark.parametrize("count", [3, 4, 8])
def test_very_few_images_leave_no_split_empty(count: int) -> None:
    groups = [Group((f"{index}.jpg",), frozenset({index % 4})) for index in range(count)]
    split = grouped_split(groups, 0.15, 0.15, 0)
    assert all(split.values())
    assert sorted(name for names in split.values() for name in names) == sorted(group.names[0] for group in groups)


def test_the_work_of_a_split_grows_with_the_groups_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """All names of a split were gone through once more for each group: minutes for 20,000 images."""
    gone_through = 0

    def counted(names: list[str]) -> set[str]:
        nonlocal gone_through
        gone_through += len(names)
        return set(names)

    monkeypatch.setattr(grouped_splits, "set", counted, raising=False)
    groups = random_groups(400)
    grouped_split(groups, 0.15, 0.15, 0)
    assert gone_through <= 3 * sum(len(group.names) for group in groups)
