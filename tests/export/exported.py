"""Exports of tiny networks, for tests."""

from pathlib import Path
from typing import Any

import torch

from eomt.export.options import ExportOptions
from eomt.export.record import Record
from eomt.export.run import Samples, export_network
from eomt.tasks.base import AdaptationTask


def export(task: AdaptationTask, folder: Path, **options: Any) -> Record:
    """Export a task's network as the command does, compared on a synthetic batch of two."""
    batch = task.synthetic_batch(2)
    samples = Samples(batch, lambda: [batch], "a synthetic batch")
    with torch.no_grad():
        return export_network(task, task.network, samples, folder, ExportOptions(**options), "tiny.ckpt")
