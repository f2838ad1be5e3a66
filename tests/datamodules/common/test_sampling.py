import pytest
import torch

from datamodules.common.sampling import PADDING_INDEX, EvaluationSampler, TrainingSampler, collate_samples
from eomt.errors import UserError


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_samples", [1, 6, 7])
def test_ranks_share_the_samples_and_take_equal_steps(num_samples: int, world_size: int) -> None:
    samplers = [EvaluationSampler(num_samples, world_size, rank) for rank in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert sorted(i for share in shares for i in share if i != PADDING_INDEX) == list(range(num_samples))
    assert {len(share) for share in shares} == {len(samplers[0])} == {-(-num_samples // world_size)}


def test_samples_are_stacked() -> None:
    samples = [{"image": torch.full((3, 2, 2), i), "name": str(i)} for i in range(3)]
    batch = collate_samples(samples)
    assert batch["image"].shape == (3, 3, 2, 2)
    assert batch["name"] == ["0", "1", "2"]


def test_different_sizes_ask_for_single_images() -> None:
    samples = [{"image": torch.zeros(3, 2, 2 + i), "name": f"{i}.png"} for i in range(2)]
    with pytest.raises(UserError, match=r"0\.png is 2 x 2, 1\.png is 2 x 3\); set eval_batch_size: 1"):
        collate_samples(samples)


def test_training_sampler_gives_each_rank_its_own_share() -> None:
    shares = [list(TrainingSampler(11, 3, rank, seed=1)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    indices = [index for share in shares for index, _ in share]
    assert len(set(indices)) == 9


def test_training_order_and_seeds_follow_from_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = TrainingSampler(20, 1, 0, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(1, 3) == draw(1, 3)
    assert len({tuple(draw(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert len({seed for _, seed in draw(1, 0)}) == 20
