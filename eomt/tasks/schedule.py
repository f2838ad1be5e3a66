"""The course of the learning rate over a run."""

import math
from collections.abc import Callable
from typing import Literal

from lightning.pytorch import Trainer

from eomt.utils.trainer import has_step_limit, run_progress

Schedule = Literal["cosine", "poly"]

# of a run that only its time limits
TIME_PARTS = 10_000


def schedule_factor(trainer: Trainer, schedule: Schedule, warmup: float) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step: it rises, then falls to 0.

    Args:
        trainer: The trainer of the run, which knows how long that is.
        schedule: Half a cosine, or a polynomial of power 0.9.
        warmup: Share of the run in which it rises from 0.
    """
    # a run that only its time limits is measured in parts of it
    timed = not has_step_limit(trainer)
    total = TIME_PARTS if timed else int(trainer.estimated_stepping_batches)
    rising = round(warmup * total)

    def factor(step: int) -> float:
        if timed:
            step = int(TIME_PARTS * run_progress(trainer))
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, total - rising))
        return 0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else (1 - done) ** 0.9

    return factor
