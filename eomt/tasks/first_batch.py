"""The first batch that shows what a training learns from."""

from collections.abc import Iterable
from typing import Any

from eomt.errors import UserError
from eomt.tasks.base import AdaptationTask


def first_supervised(task: AdaptationTask, batches: Iterable[Any]) -> Any:
    """Return the first batch that has labels to learn from; random crops of sparse labels may have none.

    Raises:
        UserError: If no batch has any.
    """
    is_empty = True
    for batch in batches:
        if task.is_supervised(batch):
            return batch
        is_empty = False
    if is_empty:
        raise UserError("data: train_dataloader gives no batch; see batch_size and the number of training samples")
    raise UserError("data: no batch of the first epoch holds a label to learn from; see ignore_labels and crop_size")
