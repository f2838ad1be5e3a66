"""The progress bar, or one line per validation where there is no terminal."""

import logging
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console

from eomt.tasks.base import AdaptationTask

log = logging.getLogger("eomt")

# seconds between two lines of training figures, where there is no terminal
LINE_INTERVAL = 30.0
# of every task; the task's main metric is shown beside them
LOSSES = ("train_loss", "val_loss")


def _without_forks(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics without `loss_step` and `loss_epoch` where there is `loss`: Lightning logs all three."""
    return {
        name: value
        for name, value in metrics.items()
        if not any(name.endswith(end) and name.removesuffix(end) in metrics for end in ("_step", "_epoch"))
    }


class ProgressBar(RichProgressBar):
    """Lightning's Rich progress bar with losses, the task's main metric and images per second.

    Without a terminal (a batch job, a pipe), Rich would print all bars again at the end of each stage. There the bar is
    off, and the log has one line for each validation instead, and one each half minute between them.

    Args:
        refresh_rate: Redraws per second; 0 turns the bar off.
        leave: Keep the bars of finished epochs on the screen.
        console_kwargs: Arguments for Rich's `Console`.
    """

    def __init__(
        self, refresh_rate: int = 10, leave: bool = False, console_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=leave, console_kwargs=console_kwargs)
        console = Console(**(console_kwargs or {}))
        self._can_redraw = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
        self._last_batch_end: float | None = None
        self._recent_images = 0.0
        self._recent_seconds = 0.0
        self._last_line = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether bars are drawn: they are not turned off, and there is a terminal or a notebook."""
        return self._can_redraw and super().is_enabled

    @property
    def sanity_check_description(self) -> str:
        """Title of the sanity check, which validates step 0 or, after a resume, a later step."""
        step = self.trainer.global_step
        return "Baseline (step 0)" if step == 0 else f"Resumed (step {step})"

    def _get_train_description(self, current_epoch: int) -> str:
        """Return the title of an epoch; for runs limited in steps, Lightning would show "Epoch 3/-2"."""
        if self.trainer.max_epochs == -1:
            return f"Epoch {current_epoch}, to step {self.trainer.max_steps}"
        return super()._get_train_description(current_epoch)

    @property
    def images_per_second(self) -> float:
        """Speed of training or of `predict` over all processes, with waiting for data; 0 until it is known."""
        return self._recent_images / self._recent_seconds if self._recent_seconds else 0.0

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what is shown beside the training bar."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        own = pl_module.file_metrics[:1] if isinstance(pl_module, AdaptationTask) else ("iou",)
        for name in (*LOSSES, *(f"{split}_{figure}" for figure in own for split in ("train", "val"))):
            if name in trainer.callback_metrics:
                metrics[name] = trainer.callback_metrics[name].item()
        metrics = _without_forks(metrics)
        if self.images_per_second:
            metrics["images/s"] = f"{self.images_per_second:.1f}"
        return metrics

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_predict_start(trainer, pl_module)
        self._recent_images = self._recent_seconds = 0.0
        self._last_batch_end, self._last_line = time.perf_counter(), time.monotonic()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Show the images per second beside the bar or, where there is none, in a line each half minute."""
        self._count(trainer, batch)
        if self.progress is not None and self.predict_progress_bar_id is not None:
            title = f"{self.predict_description}, {self.images_per_second:.1f} images/s"
            self.progress.update(self.predict_progress_bar_id, description=title)
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        waited = time.monotonic() - self._last_line >= LINE_INTERVAL
        if waited and not self._can_redraw and trainer.is_global_zero:
            self._last_line = time.monotonic()
            total = trainer.num_predict_batches[dataloader_idx]
            log.info("predict: batch %d of %s, %.1f images/s", batch_idx + 1, total, self.images_per_second)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock, also after a validation."""
        if self._last_batch_end is None:
            self._last_batch_end = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """Count the images and seconds of the batch; the weight of earlier batches falls by a tenth."""
        self._count(trainer, batch)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._last_line and time.monotonic() - self._last_line >= LINE_INTERVAL and trainer.callback_metrics:
            self._log_line(trainer, "train_")

    def _count(self, trainer: Trainer, batch: Any) -> None:
        if isinstance(batch, dict) and "image" in batch and self._last_batch_end is not None:
            now = time.perf_counter()
            self._recent_images = 0.9 * self._recent_images + len(batch["image"]) * trainer.world_size
            self._recent_seconds = 0.9 * self._recent_seconds + now - self._last_batch_end
            self._last_batch_end = now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the lines."""
        super().on_train_start(trainer, pl_module)
        self._last_line = time.monotonic()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._last_batch_end = None
        super().on_validation_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock, since work between epochs and the start of workers do not count as training."""
        self._last_batch_end = None
        super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log one line where no bar is drawn."""
        super().on_validation_end(trainer, pl_module)
        self._log_line(trainer)

    def _log_line(self, trainer: Trainer, prefix: str = "") -> None:
        self._last_line = time.monotonic()
        if self._can_redraw or not trainer.is_global_zero:
            return
        # metrics of one class, such as "val_iou/road", are left out
        named = [name for name in trainer.callback_metrics if "/" not in name and name.startswith(prefix)]
        values = {name: trainer.callback_metrics[name].item() for name in named}
        shown = [f"{name} {value:.4g}" for name, value in _without_forks(values).items()]
        if self.images_per_second:
            shown.append(f"{self.images_per_second:.1f} images/s")
        title = self.sanity_check_description if trainer.sanity_checking else f"step {trainer.global_step}"
        if trainer.state.fn == "validate":
            # its steps are counted from 0; which weights they are is what matters
            weights = getattr(trainer.lightning_module, "weights", None)
            title = Path(weights).name if weights else "base"
        log.info("%s: %s", title, ", ".join(shown))
