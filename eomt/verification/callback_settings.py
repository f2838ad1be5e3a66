"""What the callbacks of all trainers are given, and the batch that they audit."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eomt.errors import UserError, first_line
from eomt.utils.arguments import described
from eomt.utils.modes import isolated_randomness
from eomt.verification.findings import AuditReport
from eomt.verification.passes import Loss, Outputs
from eomt.verification.training import FLOOR, TrainingAudit

Reopen = Callable[[Any], nn.Module]


def first_batch(loader: Any, device: torch.device) -> Any:
    """Return the first samples of a loader's data set as a batch, without a step of the loader itself.

    Args:
        loader: A DataLoader over a data set of known length.
        device: Where tensors of the batch are put.

    Raises:
        UserError: If there is no such data set.
    """
    dataset, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and callable(collate)):
        raise UserError("batch: the training data cannot be read by index; give AuditCallback a batch")
    assert dataset is not None
    with isolated_randomness():
        batch = collate([dataset[index] for index in range(min(size or 1, len(dataset)))])
    return on_device(batch, device)


def on_device(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device."""
    return torch.utils._pytree.tree_map_only(Tensor, lambda value: value.to(device), batch)


class AuditSettings:
    """What the callbacks of all trainers are given.

    Args:
        batch: A training batch; None takes the first samples of the training data.
        loss: Returns the loss of the model on a batch; None takes the trainer's own.
        outputs: Returns the model's answer to a batch as one tensor; None takes the trainer's own.
        expect: See `eomt.verification.audit`.
        allow_random_base: See `eomt.verification.audit`.
        every: Steps between two light checks; 0 makes none.
        floor: The least that adapters must change the answers, as a share of the largest.
        warn: Log faults, and do not stop.
        reopen: Returns a fresh model into which what the trainer saved was read; None does not check what is saved.

    Attributes:
        reports: Name of each check -> its report.
    """

    def __init__(
        self,
        batch: Any = None,
        loss: Loss | None = None,
        outputs: Outputs | None = None,
        expect: Iterable[str] | str | None = None,
        allow_random_base: bool = False,
        every: int = 100,
        floor: float = FLOOR,
        warn: bool = False,
        reopen: Reopen | None = None,
    ) -> None:
        self._batch, self._reopen = batch, reopen
        self._settings: dict[str, Any] = {
            "loss": loss,
            "outputs": outputs,
            "expect": expect,
            "allow_random_base": allow_random_base,
            "every": every,
            "floor": floor,
            "warn": warn,
        }
        self._audit: TrainingAudit | None = None

    def _read_back(self, path: Path, audited: TrainingAudit) -> nn.Module:
        """Return the fresh model of `reopen`, beside the one that is trained, whose random numbers stay as they are.

        Raises:
            UserError: If `reopen` fails, or returns no model.
        """
        assert self._reopen is not None
        with isolated_randomness():
            try:
                fresh = self._reopen(path)
            except UserError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__} ({first_line(error)})"
                raise UserError(f"reopen: raises {reason}; it gets the path of what was saved, a Path") from error
        if not isinstance(fresh, nn.Module):
            raise UserError(f"reopen: returns {described(fresh)}; return the fresh model into which the file was read")
        return fresh.to(next(audited.model.parameters()).device)

    @property
    def reports(self) -> dict[str, AuditReport]:
        """Name of each check -> its report."""
        return self._audit.reports if self._audit else {}
