"""Samplers that keep the questions of an image together."""

from collections.abc import Iterator, Sequence

import numpy as np

from datamodules.common.sampling import PADDING_INDEX, EvaluationSampler, TrainingSampler


class QuestionSampler(TrainingSampler):
    """Indices of questions, images in random order and an image's questions behind one another, with seeds.

    Their order depends on `seed` and the epoch alone; each rank takes a piece of it, all as long, and what is left over
    is left out. An image stands in two pieces at most where they meet.

    Args:
        images: Number of the image that each question is about, counted from 0.
        questions_per_image: How many questions of an image stand together at most; None for all of them.
        world_size: Number of processes.
        rank: Number of this process.
        seed: Seed of the run.
    """

    def __init__(
        self, images: Sequence[int], questions_per_image: int | None, world_size: int, rank: int, seed: int
    ) -> None:
        super().__init__(len(images), world_size, rank, seed)
        self.images = np.asarray(images)
        self.questions_per_image = questions_per_image

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = self._permutation(random).tolist()
        seeds = random.integers(2**62, size=self.num_samples).tolist()
        own = range(self.rank * len(self), (self.rank + 1) * len(self))
        return iter([(order[position], seeds[position]) for position in own[self.samples_seen() :]])

    def _permutation(self, random: np.random.Generator) -> np.ndarray:
        """Return all indices, those of a chunk of an image's questions together, `(num_samples,)`."""
        shuffled = random.permutation(self.num_samples)
        by_image = shuffled[np.argsort(self.images[shuffled], kind="stable")]
        _, sizes = np.unique(self.images, return_counts=True)
        within = np.arange(self.num_samples) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        per_image = self.questions_per_image or int(sizes.max(initial=1))
        # a chunk begins with every image, and within one as often as it is full
        chunk = np.cumsum(within % per_image == 0) - 1
        place = random.permutation(int(chunk[-1]) + 1 if len(chunk) else 0)
        return by_image[np.argsort(place[chunk], kind="stable")]


class ContiguousSampler(EvaluationSampler):
    """A piece of the indices 0, 1, 2, ... for each rank, in order; pieces differ by one at most in length.

    All ranks take the same number of steps; the shorter ones are filled up with `PADDING_INDEX`. Rows that are ordered
    by image are so on every rank.
    """

    def __iter__(self) -> Iterator[int]:
        own = np.array_split(np.arange(self.num_samples), self.world_size)[self.rank].tolist()
        return iter(own + [PADDING_INDEX] * (len(self) - len(own)))
