"""Samples of files that may be damaged: what cannot be read travels as a value, and the other samples go on."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from datamodules.common.sampling import PADDING_INDEX
from eomt.errors import UserError, counted

log = logging.getLogger("eomt")

# in a batch: name and reason of each sample that could not be read
FAILED = "failed"


class TolerantDataset(Dataset[dict[str, Any]]):
    """Some samples of a data set; of one that cannot be read, `name` and, under "failed", the reason.

    `PADDING_INDEX` gives a sample without a name.

    Args:
        dataset: All samples, in the order of `names`.
        names: Their names.
        places: Which of them are wanted.
        blank: A sample without a name, of the same parts as the others.
    """

    def __init__(self, dataset: Any, names: Sequence[str], places: Sequence[int], blank: Mapping[str, Any]) -> None:
        self.dataset, self.names, self.places, self.blank = dataset, names, places, blank

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == PADDING_INDEX:
            return dict(self.blank)
        place = self.places[index]
        try:
            sample: dict[str, Any] = self.dataset[place]
        except UserError as error:
            return {"name": self.names[place], FAILED: str(error)}
        return sample


def refuse_unreadable(dataset: Any, count: int) -> None:
    """Check that one of the samples of a data set can be read; most often the first.

    Raises:
        UserError: None can.
    """
    reasons: list[str] = []
    for place in range(count):
        try:
            dataset[place]
        except UserError as error:
            reasons.append(str(error))
        else:
            return
    for reason in reasons:
        log.warning("%s", reason)
    raise UserError(f"predict: none of {counted(count, 'image')} could be read; the first: {reasons[0]}")


class TolerantCollate:
    """Makes a batch of the samples that could be read, and lists the others, if there are any, under "failed".

    A batch without any has one sample without a name: every process takes the same number of steps.

    Args:
        collate: Makes a batch of samples.
        blank: A sample without a name.
    """

    def __init__(self, collate: Callable[..., dict[str, Any]], blank: Mapping[str, Any]) -> None:
        self.collate, self.blank = collate, blank

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch."""
        failed = [(sample["name"], sample[FAILED]) for sample in samples if FAILED in sample]
        # the blank one has a size of its own
        readable = [sample for sample in samples if FAILED not in sample and sample["name"]]
        batch = self.collate(readable or [dict(self.blank)])
        return batch | ({FAILED: failed} if failed else {})
