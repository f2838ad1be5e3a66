import numpy as np
import pytest

from datamodules.common.label_arrays import count_labels, look_up


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("labels", [[0], [255], [3, 0, 254, 7]])
def test_labels_are_counted(dtype: type, labels: list[int]) -> None:
    raw = np.random.default_rng(0).choice(labels, (13, 17)).astype(dtype)
    found, pixels = np.unique(raw, return_counts=True)
    counted = count_labels(raw)
    assert counted == dict(zip(found.tolist(), pixels.tolist(), strict=True))
    assert list(counted) == sorted(counted)


def test_looking_up_is_indexing() -> None:
    random = np.random.default_rng(0)
    table, raw = random.integers(256, size=256, dtype=np.uint8), random.integers(256, size=(13, 17), dtype=np.uint8)
    before = raw.copy()
    found = look_up(table, raw)
    np.testing.assert_array_equal(found, table[raw])
    found[:] = 0
    np.testing.assert_array_equal(raw, before)
