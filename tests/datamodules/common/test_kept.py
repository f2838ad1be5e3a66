from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from datamodules.common import kept
from datamodules.common.kept import KeptSamples


def reader(most_bytes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[KeptSamples[int, tuple[Tensor]], Counter[int]]:
    """Return samples of 10 bytes each, and how often each one was read."""
    monkeypatch.setattr(kept, "KEPT_BYTES", most_bytes)
    read: Counter[int] = Counter()

    def ten_bytes(key: int) -> tuple[Tensor]:
        read[key] += 1
        return (torch.full((10,), key, dtype=torch.uint8),)

    return KeptSamples(ten_bytes), read


def test_samples_are_read_once_as_long_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, read = reader(39, monkeypatch)
    for _ in range(3):
        for key in range(5):
            assert samples(key)[0].tolist() == [key] * 10
    assert read == {0: 1, 1: 1, 2: 1, 3: 3, 4: 3}


def test_workers_share_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, read = reader(40, monkeypatch)
    monkeypatch.setattr(kept, "get_worker_info", lambda: SimpleNamespace(num_workers=2))
    for _ in range(2):
        for key in range(4):
            samples(key)
    assert read == {0: 1, 1: 1, 2: 2, 3: 2}


def test_a_part_of_an_image_takes_the_room_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT_BYTES", 100)
    read: list[int] = []

    def part(key: int) -> tuple[Tensor]:
        read.append(key)
        return (torch.zeros(101, dtype=torch.uint8)[:3],)

    samples = KeptSamples(part)
    samples(0)
    samples(0)
    assert read == [0, 0]
