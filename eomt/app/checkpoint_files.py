"""The .ckpt files of runs: read with the checks that a resumed fit makes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from eomt.errors import UserError
from eomt.models.weights.files import DAMAGED, check_stored
from eomt.utils.reading import Count, check_regular, checked


class CheckpointFile(TypedDict):
    """What is read of a .ckpt file here; tasks and callbacks read more."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    global_step: Count
    state_dict: dict[str, Any]


class ResumableFile(CheckpointFile):
    """What a training goes on from."""

    loops: dict[str, Any]
    callbacks: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]


CHECKPOINT: TypeAdapter[Any] = TypeAdapter(CheckpointFile)
RESUMABLE: TypeAdapter[Any] = TypeAdapter(ResumableFile)


def load_checkpoint(task: LightningModule, path: Path) -> None:
    """Fill a task from a .ckpt file, with the checks that a resumed fit makes.

    Raises:
        UserError: If it was trained with other adapters, or on another base.
    """
    checkpoint = _read_checkpoint(path)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])


def step_of(path: Path, resumes: bool = False) -> int:
    """Return the training step at which a .ckpt file was saved.

    Args:
        path: The file.
        resumes: Whether a training goes on from it, which takes more than weights.

    Raises:
        UserError: If the file cannot be read, or is no checkpoint of a task.
    """
    found = _read_checkpoint(path, mmap=True)
    if resumes:
        checked(found, RESUMABLE, f"ckpt_path: {path} holds nothing to go on from", "give a file that a fit saved")
    return found["global_step"]


def _read_checkpoint(path: Path, **options: bool) -> dict[str, Any]:
    remedy = "give another"
    check_regular(path, remedy)
    check_stored(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, **options)
    except DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"ckpt_path: {path} is no checkpoint that can be read ({reason[:80]}); {remedy}") from error
    return checked(found, CHECKPOINT, f"ckpt_path: {path} is no checkpoint that can be read", remedy)
