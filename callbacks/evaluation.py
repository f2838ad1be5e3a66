"""What callbacks share that look at what a task answers in validation, test and prediction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.run.run_folder import run_folder
from eomt.errors import UserError

Stage = Literal["val", "test", "predict"]
Task = TypeVar("Task", bound=LightningModule)


@dataclass(frozen=True)
class EvaluatedBatch:
    """A batch and what the task answered.

    Attributes:
        stage: Where.
        batch: As the data module makes it.
        outputs: What the task's step returned.
        index: The batch's number in its loader.
        loader: The loader's number.
    """

    stage: Stage
    batch: Any
    outputs: Any
    index: int
    loader: int

    def real(self) -> list[int]:
        """Return the places of samples that are no padding: those with a name."""
        return [place for place, name in enumerate(self.batch["name"]) if name]


class EvaluationCallback(Callback, Generic[Task]):
    """Lightning's hooks of the three kinds of evaluation as one set of methods, for a callback to override.

    Attributes:
        task_class: The tasks that the callback is for; others are refused.
        folder: The run's folder, from `setup` on.
    """

    task_class: type[LightningModule] = LightningModule
    folder = Path()

    def begin(self, stage: Stage) -> None:
        """Drop what an interrupted evaluation may have left."""

    def take(self, trainer: Trainer, task: Task, evaluated: EvaluatedBatch) -> None:
        """Look at a batch; every process sees its own share."""

    def end_epoch(self, trainer: Trainer, task: Task, stage: Stage) -> None:
        """Look back on all batches of a validation or a test, where figures may still be logged."""

    def end(self, trainer: Trainer, task: Task, stage: Stage) -> None:
        """Look back on all batches; the figures of the whole evaluation are known."""

    def begin_anew(self, trainer: Trainer) -> None:
        """Make room for the predictions of other weights or settings than those that lie in the folder."""

    def write_joined(self, lines: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Write a file of all predictions, those of earlier, stopped commands too; the first process calls it.

        Args:
            lines: Yields what `PredictionFiles` keeps of each image.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse tasks of another kind, and agree on the run's folder.

        Raises:
            UserError: The task is no `task_class`.
        """
        if not isinstance(pl_module, self.task_class):
            found, wanted = type(pl_module).__name__, self.task_class.__name__
            raise UserError(f"callbacks: {type(self).__name__} is for {wanted}, not {found}; leave it out")
        self.folder = run_folder(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `begin`."""
        self.begin("val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `begin`."""
        self.begin("test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `begin`."""
        self.begin("predict")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Call `take`."""
        self.take(trainer, cast(Task, pl_module), EvaluatedBatch("val", batch, outputs, batch_idx, dataloader_idx))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Call `take`."""
        self.take(trainer, cast(Task, pl_module), EvaluatedBatch("test", batch, outputs, batch_idx, dataloader_idx))

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Call `take`."""
        self.take(trainer, cast(Task, pl_module), EvaluatedBatch("predict", batch, outputs, batch_idx, dataloader_idx))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `end_epoch`."""
        self.end_epoch(trainer, cast(Task, pl_module), "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `end_epoch`."""
        self.end_epoch(trainer, cast(Task, pl_module), "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `end`."""
        self.end(trainer, cast(Task, pl_module), "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `end`."""
        self.end(trainer, cast(Task, pl_module), "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call `end`."""
        self.end(trainer, cast(Task, pl_module), "predict")


def begins_run(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a training batch is the first one of a run, not of a resumed one, on the first process."""
    is_first = batch_idx == 0 and trainer.global_step == 0 and trainer.current_epoch == 0
    return is_first and trainer.is_global_zero


def check_num_samples(num_samples: int) -> int:
    """Return how many samples are to be shown.

    Raises:
        UserError: There would be none.
    """
    if num_samples < 1:
        raise UserError(f"num_samples: {num_samples}; must be at least 1")
    return num_samples
