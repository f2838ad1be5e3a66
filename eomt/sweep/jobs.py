"""One training of a sweep, and what it reports."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from eomt.utils.files import write_file
from eomt.utils.reading import read_json

# below the sweep's folder
RUNS, CONFIGS, LOGS, REPORTS, WINNER = "trials", "configs", "logs", "reports", "winner"
REMEDY = "remove it, and the training is looked at anew"


@dataclass(frozen=True)
class Job:
    """A training, up to a share of its steps, or what is done with its best weights.

    Attributes:
        name: Name of its run.
        config: The whole configuration.
        share: Share of the steps after which it pauses, behind a validation; 1 for its end.
        command: Whether it trains, measures the best weights on the test images, or writes the network that they
            make.
        facts: What tells this training from others, for the record: way, lr, fold, and fields of the grid.
        phase: Trainings of an earlier phase go first.
    """

    name: str
    config: Mapping[str, Any]
    share: float = 1.0
    command: Literal["fit", "test", "merge"] = "fit"
    facts: Mapping[str, Any] = field(default_factory=dict)
    phase: int = 0


@dataclass
class Report:
    """What a training has come to.

    Attributes:
        reached: Share of its steps.
        score: Best value of its metric so far; None without one.
        baseline: The metric at step 0, before any training.
        error: Why it ended before its time; None if it did not.
        step: Step of the best value.
        steps: Steps of the whole training.
        seconds: Of all its processes.
        memory: Bytes of the largest: of the GPU where one was used, else of the process.
        trained: Number of trained parameters.
        file_bytes: Size of what is saved: the adapter, or the trained tensors.
        batches: Batches of an epoch.
        figures: What a test measured.
    """

    reached: float = 0.0
    score: float | None = None
    baseline: float | None = None
    error: str | None = None
    step: int | None = None
    steps: int | None = None
    seconds: float = 0.0
    memory: int = 0
    trained: int | None = None
    file_bytes: int | None = None
    batches: int | None = None
    figures: dict[str, float | None] = field(default_factory=dict)

    def answers(self, job: Job) -> bool:
        """Whether this is all that a job asks for."""
        return self.error is not None or self.reached >= job.share


# what a process does: a job, the sweep's folder, variables of its environment, and threads
Work = Callable[[Job, Path, dict[str, str], int], None]
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


def report_file(folder: Path, job: Job) -> Path:
    """Return the file of a training's report in the folder of a sweep."""
    return folder / REPORTS / f"{job.name}{'' if job.command == 'fit' else f'.{job.command}'}.json"


def read_report(folder: Path, job: Job) -> Report:
    """Return what a training has come to; an empty report if it has not begun."""
    file = report_file(folder, job)
    return read_json(file, _REPORT, REMEDY) if file.is_file() else Report()


def write_report(folder: Path, job: Job, report: Report) -> None:
    """Write the report of a training."""
    write_file(report_file(folder, job), lambda path: path.write_text(json.dumps(asdict(report)) + "\n"))
