"""Checkpoints of Lightning that appear whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from eomt.utils.files import write_file


class WholeFileIO(TorchCheckpointIO):
    """Lightning's writer of checkpoints, but beside the place of the file, which a renaming then gives to it.

    Lightning writes to the folder for temporary files, and copies from there: a kill or a full disk leaves a torn file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: File to write.
            storage_options: Of other file systems, and not used.
        """

        def write(beside: Path) -> None:
            # torch would turn a full disk into an error of its own
            with beside.open("wb") as file:
                torch.save(checkpoint, file)

        write_file(Path(path), write)


def write_whole_files(trainer: Trainer) -> None:
    """Let a trainer write its checkpoints whole, unless it was given a writer of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeFileIO()
