"""What all predictors have in common."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

import torch

from datamodules.common.conversion import Conversion
from eomt.predictors.inputs import NamedImage, Source, Sources, listed_sources, read
from eomt.results import Result

Found = TypeVar("Found", bound=Result)
Item = TypeVar("Item")


class Predictor(Generic[Found]):
    """A trained model as a function of images.

    Attributes:
        source: Where its weights came from, for people.
        device: Where it computes.
        class_names: Names of its classes in the order of their ids; empty where it has none.
        batch_size: Images that are computed at once.
        conversion: How stored values become what the network takes, as in training; None for RGB of 8 bits.
    """

    source: str = ""
    device: torch.device = torch.device("cpu")
    class_names: Sequence[str] = ()
    batch_size: int = 4
    conversion: Conversion | None = None

    def read(self, source: Source) -> NamedImage:
        """Return an image as it was read in training.

        Raises:
            UserError: If it cannot be read so.
        """
        return read(source, self.conversion)

    def _answers(
        self, images: Source | Sources, of_batch: Callable[[list[NamedImage]], list[Found]]
    ) -> Found | list[Found]:
        """Return the results of one image, or of a list of them, which are read a batch at a time."""
        sources, several = listed_sources(images)
        found = [result for batch in batched(map(self.read, sources), self.batch_size) for result in of_batch(batch)]
        return found if several else found[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r}, on {self.device})"


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one perhaps shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
