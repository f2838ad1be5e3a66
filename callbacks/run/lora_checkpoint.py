"""Best, latest and final checkpoints of what was trained; each best one also as an adapter folder."""

import logging
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging, WeightAveraging
from torch.optim import Optimizer

from callbacks.run.divergence import DivergenceError, check_finite
from callbacks.run.run_folder import make_room, metric_value, remove_folder, run_folder, saved_name
from callbacks.run.saved_state import CHECKPOINT_STATE, check_loops, check_optimizers, checked_state
from callbacks.run.step_state import (
    StepState,
    gradients,
    raw_random_state,
    readable_random_state,
    restore_gradients,
    restore_training_metrics,
    set_random_state,
    step_state,
    training_metrics,
    validate_now,
    validates_next,
)
from callbacks.run.whole_files import write_whole_files
from eomt.errors import UserError, shortened
from eomt.lora.config import adaptation
from eomt.lora.files import holds_only_adapters, save_adapter
from eomt.tasks.base import AdaptationTask
from eomt.utils.distributed import gather
from eomt.utils.rank import rank
from eomt.utils.sharded import gathered, is_sharded
from eomt.utils.trainer import callbacks_of, is_trial

log = logging.getLogger("eomt")


class LoRACheckpoint(Checkpoint):
    """A callback that saves the best, the latest and the final state of a run into its folder.

    A `.ckpt` holds adapters, modules trained in full, optimizer, loops and random states, and no frozen weight. The
    best state is also saved as an adapter folder in PEFT's format. Step 0, the unchanged base, can be the best.

    Whatever ends a run early, what is saved then is its state after the last whole step, from which a resume gives what
    the run would have given. Ctrl-C waits until the optimizer has moved all weights.

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
        saves_alone: Whether a process saves at a failure of another one: without the random states of the others, so
            that steps from there on are not those that the run would have made.
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
        self.saves_alone = True
        self.on_best: list[Callable[[Trainer, LightningModule, Path], None]] = []
        self._folder = Path()
        self._task: LightningModule | None = None
        self._state: StepState | None = None
        # weights are neither those before the step nor those after it
        self._moving = False
        self._interrupted = False
        self._usual_interrupt: Callable[[int, FrameType | None], Any] = signal.default_int_handler
        self._resumed: dict[str, Any] = {}
        self._waits_for_others = True

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
        self._task = pl_module
        write_whole_files(trainer)
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
        self._state, self._moving, self._interrupted = None, False, False
        usual = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(usual) and usual != self._interrupt:
            self._usual_interrupt = usual
            signal.signal(signal.SIGINT, self._interrupt)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C its usual meaning back."""
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, self._usual_interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._moving:
            self._interrupted = True
        else:
            self._usual_interrupt(number, frame)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where a resumed run was stopped: with its sums of figures and gradients, or with a validation.

        Raises:
            UserError: If they do not fit.
        """
        resumed, self._resumed = self._resumed, {}
        try:
            restore_training_metrics(pl_module, resumed.get("training_metrics", {}))
            restore_gradients(pl_module, resumed.get("gradients", {}))
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = shortened(str(error), 100)
            raise UserError(f"ckpt_path: its figures or gradients do not fit ({reason}); give another") from error
        if resumed:
            check_optimizers(trainer)
        if resumed.get("validation_due"):
            validate_now(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Note that weights are about to move."""
        self._moving = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a run that diverged, since NaN scores have an arg-max too and can give a high metric.

        Raises:
            DivergenceError: If a trained tensor has a value that is not finite.
        """
        if trainer.state.fn == "fit":
            check_finite(pl_module, trainer.global_step)

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
            if not trainer.fit_loop._should_accumulate():
                self._state = self._alone(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note the state after a step, and save it every `every_n_steps` steps."""
        if trainer.fit_loop._should_accumulate() or is_trial(trainer):
            return
        step = trainer.global_step
        self._state = self._alone(trainer, validates_next(trainer))
        self._moving = False
        if self.every_n_steps and step and step % self.every_n_steps == 0 and not self._state.validation_due:
            # else it follows the validation
            self._save_latest(trainer)
        if self._interrupted:
            self._usual_interrupt(signal.SIGINT, None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the final state."""
        if not is_trial(trainer):
            self._replace(trainer, "final")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the state after the last whole step, so that the run can be resumed.

        Other processes may wait for one that is not here any more, so nothing waits for them, and their random states
        are not saved. Weights of which each process holds a part are not, either.
        """
        state = self._state
        if isinstance(exception, DivergenceError) or state is None or self._moving or is_trial(trainer):
            return
        name = f"latest_lora_step{state.step}.ckpt"
        # before the last validation of a run, nothing would be left to resume: the file before it does that
        if not trainer.is_global_zero or name == self.latest_name or (state.validation_due and trainer.should_stop):
            return
        if not self.saves_alone:
            return
        if is_sharded(pl_module):
            log.warning("weights are sharded, so the last state to go on from is %s", self.latest_name or "the base")
            return
        self._waits_for_others = False
        try:
            check_finite(pl_module, state.step)
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            own = state.callbacks[self.state_key] | {
                "random": [readable_random_state(state.random)],
                "training_metrics": state.metrics,
                "gradients": {},
                "validation_due": state.validation_due,
            }
            checkpoint |= {
                "global_step": state.step,
                "loops": state.loops,
                "lr_schedulers": state.schedulers,
                "callbacks": state.callbacks | {self.state_key: own},
            }
            trainer.strategy.save_checkpoint(checkpoint, self._folder / name)
        except UserError as error:
            log.info("%s", error)
            return
        finally:
            self._waits_for_others = True
        self._remove_others(name, "latest")
        self.latest_name = name

    def state_dict(self) -> dict[str, Any]:
        """Return the best values so far, and the random states of all ranks."""
        state: dict[str, Any] = {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "best_name": self.best_name,
            "baseline": self.baseline,
        }
        if self._waits_for_others:
            # each rank draws its own augmentations
            state["random"] = gather(readable_random_state(raw_random_state()))
            if self._task is not None:
                accumulates = self._task.trainer.fit_loop._should_accumulate()
                state["training_metrics"] = training_metrics(self._task)
                state["gradients"] = gradients(self._task) if accumulates else {}
        return state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check the loops of a run that goes on, before Lightning takes them back.

        Raises:
            UserError: If they are not those of a training.
        """
        check_loops(trainer, checkpoint.get("loops", {}))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best values, unless their file is missing, and the random state of this rank.

        Raises:
            UserError: If the best has a name that no run gives, or something else is no state of a run.
        """
        state_dict = checked_state(state_dict, CHECKPOINT_STATE, self)
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self.best_name = saved_name(state_dict["best_name"], "best_lora", ".ckpt")
        self.baseline = state_dict["baseline"]
        if self.best_name and not (self._folder / self.best_name).is_file():
            # the checkpoint lies in another folder than its best: the next validation starts a new best
            self.best_name, self.best_score, self.best_step = "", None, None
        self._resumed = state_dict
        states = state_dict["random"]
        if rank() < len(states):
            set_random_state(states[rank()])

    def _alone(self, trainer: Trainer, validation_due: bool = False) -> StepState:
        """Return the state of the run without waiting for other processes."""
        self._waits_for_others = False
        try:
            return step_state(trainer, validation_due)
        finally:
            self._waits_for_others = True

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
        with gathered(pl_module):
            done = adaptation(pl_module.network)
            if done and done.adapters and trainer.is_global_zero:
                try:
                    make_room(path.with_suffix(""), holds_only_adapters)
                    save_adapter(pl_module.network, path.with_suffix(""), pl_module.network.base)
                except UserError as error:
                    log.info("%s", error)
        # before the checkpoint, which holds the states of these callbacks
        for call in self.on_best:
            call(trainer, pl_module, path)
        trainer.save_checkpoint(path)
        if trainer.is_global_zero and previous and previous != self.best_name:
            (self._folder / previous).unlink(missing_ok=True)
            remove_folder((self._folder / previous).with_suffix(""), holds_only_adapters)

    def _save_latest(self, trainer: Trainer) -> None:
        name = f"latest_lora_step{trainer.global_step}.ckpt"
        if name != self.latest_name:
            self._replace(trainer, "latest")
            self.latest_name = name

    def _replace(self, trainer: Trainer, kind: str) -> None:
        """Save a checkpoint, and remove the earlier ones of that kind."""
        check_finite(trainer.lightning_module, trainer.global_step)
        name = f"{kind}_lora_step{trainer.global_step}.ckpt"
        trainer.save_checkpoint(self._folder / name)
        if trainer.is_global_zero:
            self._remove_others(name, kind)

    def _remove_others(self, name: str, kind: str) -> None:
        for other in self._folder.glob(f"{kind}_lora_step*.ckpt"):
            # a user may have copied one under a longer name
            if other.name != name and re.fullmatch(rf"{kind}_lora_step\d+\.ckpt", other.name):
                other.unlink()
