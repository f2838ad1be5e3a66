"""Best, latest and final checkpoints of what was trained; each best one also as an adapter folder."""

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging, WeightAveraging

from callbacks.run.run_folder import metric_value, run_folder
from eomt.errors import UserError
from eomt.lora.config import adaptation
from eomt.lora.files import save_adapter
from eomt.tasks.base import AdaptationTask
from eomt.utils.distributed import gather, rank
from eomt.utils.trainer import callbacks_of, is_trial

log = logging.getLogger("eomt")


class LoRACheckpoint(Checkpoint):
    """A callback that saves the best, the latest and the final state of a run into its folder.

    A `.ckpt` holds adapters, modules trained in full, optimizer, loops and random states, and no frozen weight. The
    best state is also saved as an adapter folder in PEFT's format. Step 0, the unchanged base, can be the best.

    Args:
        monitor: Metric that selects the best; None takes the task's.
        mode: "max" or "min"; None takes the task's.
        every_n_steps: Also save the latest state every so many steps; None saves it only after each validation.

    Attributes:
        best_score: Best value of the metric so far; None before a validation.
        best_step: Step of the best value.
        best_name: File name of the best checkpoint; "" if there is none. A name, since a run may be moved or copied.
        latest_name: File name of the latest checkpoint.
        baseline: Value of the metric at step 0.
        on_best: Functions to call with (trainer, task, path) when a best checkpoint is saved; `MergeOnSave` adds one.
    """

    def __init__(
        self, monitor: str | None = None, mode: Literal["min", "max"] | None = None, every_n_steps: int | None = None
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"every_n_steps: {every_n_steps}; must be at least 1, or null")
        self.monitor, self.mode, self.every_n_steps = monitor, mode, every_n_steps
        self.best_score: float | None = None
        self.best_step: int | None = None
        self.best_name = ""
        self.latest_name = ""
        self.baseline: float | None = None
        self.on_best: list[Callable[[Trainer, LightningModule, Path], None]] = []
        self._folder = Path()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the run's folder from the trainer and, where none were given, metric and mode from the task.

        Raises:
            UserError: If another callback averages weights: what is saved would not be what was measured.
        """
        assert isinstance(pl_module, AdaptationTask)
        for callback in callbacks_of(trainer):
            if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
                raise UserError(
                    f"trainer.callbacks: {type(callback).__name__} measures averaged weights, and others would be "
                    "saved; leave it out"
                )
        self._folder = run_folder(trainer)
        self.monitor = self.monitor or pl_module.monitor
        self.mode = self.mode or pl_module.mode

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that something can select the best step.

        Raises:
            UserError: If nothing is validated, although it is not switched off.
        """
        if trainer.limit_val_batches and not trainer.enable_validation:
            raise UserError(
                f"data: has no val_dataloader, so {self.monitor} cannot select the best step; add one, "
                "or switch validation off: --trainer.limit_val_batches 0"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a run that diverged, since NaN scores have an arg-max too and can give a high metric.

        Raises:
            UserError: If a trained tensor has a value that is not finite.
        """
        if trainer.state.fn != "fit":
            return
        for name, parameter in pl_module.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise UserError(
                    f"{name}: is not finite at step {trainer.global_step}: the training diverged; "
                    "lower --model.lr, or set --trainer.gradient_clip_val 1.0"
                )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best state if the metric improved, and the latest unless this is step 0.

        Raises:
            UserError: If the task does not log the metric.
        """
        if trainer.state.fn != "fit" or is_trial(trainer):
            return
        assert self.monitor is not None
        score = metric_value(trainer, self.monitor, "LoRACheckpoint")
        if trainer.global_step == 0:
            self.baseline = score
        if self._is_best(score):
            self.best_score, self.best_step = score, trainer.global_step
            self._save_best(trainer, pl_module)
        if not trainer.sanity_checking:
            self._save_latest(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save the latest state every `every_n_steps` steps."""
        step = trainer.global_step
        if self.every_n_steps and step and step % self.every_n_steps == 0 and not is_trial(trainer):
            self._save_latest(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        if not is_trial(trainer):
            self._replace(trainer, f"final_lora_step{trainer.global_step}.ckpt", "final_lora_step*.ckpt")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the latest state on Ctrl-C or a failure, so that the run can be resumed."""
        if trainer.global_step and not isinstance(exception, UserError) and not is_trial(trainer):
            self._save_latest(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best values so far, and the random states of all ranks."""
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "best_name": self.best_name,
            "baseline": self.baseline,
            # each rank draws its own augmentations
            "random": gather(_random_state()),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best values, unless their file is missing, and the random state of this rank."""
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self.best_name, self.baseline = state_dict["best_name"], state_dict["baseline"]
        if self.best_name and not (self._folder / self.best_name).is_file():
            # the checkpoint lies in another folder than its best: the next validation starts a new best
            self.best_name, self.best_score, self.best_step = "", None, None
        states = state_dict["random"]
        if rank() < len(states):
            _set_random_state(states[rank()])

    def _is_best(self, score: float) -> bool:
        if score != score:
            return False
        if self.best_score is None:
            return True
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _save_best(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, AdaptationTask)
        name = f"best_lora_step{trainer.global_step}"
        for figure in pl_module.file_metrics:
            name += f"_{figure}{metric_value(trainer, f'val_{figure}', 'LoRACheckpoint'):.4f}"
        previous, self.best_name = self.best_name, f"{name}.ckpt"
        path = self._folder / self.best_name
        if trainer.is_global_zero:
            done = adaptation(pl_module.network)
            if done and done.adapters:
                try:
                    save_adapter(pl_module.network, path.with_suffix(""), pl_module.network.base)
                except UserError as error:
                    log.info("%s", error)
        # before the checkpoint, which holds the states of these callbacks
        for call in self.on_best:
            call(trainer, pl_module, path)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero and previous and previous != self.best_name:
            (self._folder / previous).unlink(missing_ok=True)
            shutil.rmtree((self._folder / previous).with_suffix(""), ignore_errors=True)

    def _save_latest(self, trainer: Trainer) -> None:
        name = f"latest_lora_step{trainer.global_step}.ckpt"
        if name != self.latest_name:
            self._replace(trainer, name, "latest_lora_step*.ckpt")
            self.latest_name = name

    def _replace(self, trainer: Trainer, name: str, pattern: str) -> None:
        """Save a checkpoint, and remove the earlier ones that match `pattern`."""
        trainer.save_checkpoint(self._folder / name)
        if trainer.is_global_zero:
            for other in self._folder.glob(pattern):
                if other.name != name:
                    other.unlink()


def _random_state() -> dict[str, Any]:
    """Return the random states of torch, CUDA, NumPy and Python, in types that `weights_only=True` can read."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
