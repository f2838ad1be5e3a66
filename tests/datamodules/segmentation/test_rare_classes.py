from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules import ImageMaskFolder
from datamodules.segmentation.rare_classes import RepeatFactorSampler, repeat_factors
from eomt.errors import UserError
from tests.datamodules.common.image_files import write_pair

# class 1 in one image of eight, class 0 in all
FACTORS = repeat_factors([{0}] * 7 + [{0, 1}], threshold=0.5)


def draw(world_size: int, epoch: int, seen: int = 0, factors: np.ndarray = FACTORS) -> list[list[tuple[int, int]]]:
    shares = []
    for rank in range(world_size):
        sampler = RepeatFactorSampler(factors, world_size, rank, seed=3)
        sampler.set_epoch(epoch)
        sampler.samples_seen = lambda: seen
        shares.append(list(sampler))
    return shares


def test_factors_are_those_of_the_paper() -> None:
    # f = 1/8: sqrt(0.5 / (1/8)) = 2; f = 1: not rare
    np.testing.assert_allclose(FACTORS, [1] * 7 + [2])
    # the rarest class of an image decides; an image without a class is shown once
    np.testing.assert_allclose(repeat_factors([{0, 1}, {0}, {0}, set()], 1.0), [2, *[(4 / 3) ** 0.5] * 2, 1])


def test_an_epoch_shows_each_image_as_often_as_its_factor_says() -> None:
    factors = np.array([1.0, 1.0, 1.3, 2.5, 1.0])
    totals: Counter[int] = Counter()
    for epoch in range(400):
        (share,) = draw(1, epoch, factors=factors)
        counts = Counter(index for index, _ in share)
        assert len(share) == 7
        assert all(int(factor) <= counts[index] for index, factor in enumerate(factors))
        totals += counts
    expected = factors * 7 / factors.sum()
    np.testing.assert_allclose([totals[index] / 400 for index in range(5)], expected, atol=0.08)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_one_epoch_in_equal_steps(world_size: int) -> None:
    together = sorted(pair for share in draw(world_size, epoch=2) for pair in share)
    assert len({len(share) for share in draw(world_size, epoch=2)}) == 1
    (alone,) = draw(1, epoch=2)
    assert set(together) <= set(alone)
    assert len(set(together)) == len(together) == len(alone) // world_size * world_size
    # copies of an image are changed in different ways
    assert len({seed for _, seed in alone}) == len(alone)


def test_epochs_differ_and_a_resumed_run_goes_on_where_it_stopped() -> None:
    assert draw(1, epoch=0) != draw(1, epoch=1)
    for whole, rest in zip(draw(2, epoch=1), draw(2, epoch=1, seen=3), strict=True):
        assert rest == whole[3:]


def test_a_rare_class_comes_more_often_and_masks_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        mask = np.zeros((12, 16), dtype=np.uint8)
        mask[0, 0] = 1
        mask[:, 8:] = 2 if number == 5 else 0
        write_pair(tmp_path / "train", f"{number}.png", mask)
    write_pair(tmp_path / "val", "0.png", mask)
    data = ImageMaskFolder(str(tmp_path), 1, (8, 8), num_workers=0, repeat_factor_threshold=0.5)
    data.setup("fit")

    def refuse(*_: object) -> None:
        raise AssertionError("masks are read again")

    monkeypatch.setattr("datamodules.segmentation.data_module.scan_pairs", refuse)
    names = Counter(name for batch in data.train_dataloader() for name in batch["name"])
    assert names == Counter({f"{number}.png": 2 if number == 5 else 1 for number in range(8)})

    progress = SimpleNamespace(current=SimpleNamespace(completed=4))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, fit_loop=loop)
    assert len(list(data.train_dataloader())) == 9 - 4


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_a_threshold_is_a_share(threshold: float) -> None:
    with pytest.raises(UserError, match=r"repeat_factor_threshold: .*a share of the images"):
        ImageMaskFolder("nowhere", repeat_factor_threshold=threshold)
