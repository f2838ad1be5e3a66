"""The record of a run: logs, metrics, training_summary.json, and the table at its end."""

import hashlib
import json
import logging
import math
import os
import re
import time
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from torch import nn

from callbacks.run.adapter_audit import AdapterAudit
from callbacks.run.lora_checkpoint import LoRACheckpoint
from callbacks.run.merge_on_save import MergeOnSave
from callbacks.run.metrics_file import MetricsFile
from callbacks.run.run_folder import run_folder, validation_metrics
from callbacks.run.saved_state import SUMMARY_STATE, checked_state
from callbacks.run.surroundings import surroundings
from eomt.lora.adapter_layer import count_lora_parameters, lora_layers
from eomt.lora.config import adaptation
from eomt.lora.files import WEIGHTS_FILE as ADAPTER_FILE
from eomt.lora.packed_weight import quantization
from eomt.lora.summary import get_lora_stats, lora_summary
from eomt.reports.closing_table import print_report
from eomt.reports.run_files import SUMMARY, verdict
from eomt.tasks.base import AdaptationTask
from eomt.tasks.data import data_of
from eomt.utils.files import write_file
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.paths import check_text
from eomt.utils.tables import text_table
from eomt.utils.trainer import callbacks_of, is_trial, steps_between_logs

log = logging.getLogger("eomt")


class RunSummary(Callback):
    """A callback that writes metrics.csv, timing.csv, training.log, splits.json and training_summary.json.

    After `test` it writes results/. metrics.csv has step 0 like any other validation.

    Attributes:
        seconds: Seconds of training before this resume.
        results: File with the metrics of the last test; None before a test.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0
        # time and step of the last validation, for the seconds per step
        self._interval: tuple[float, int] = (0.0, 0)
        # step at the end of the previous batch
        self._step = 0
        self.results: Path | None = None
        self._stopped: str | None = None
        self._handler: logging.Handler | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the run's folder from the trainer."""
        self._folder = run_folder(trainer)
        self._metrics = MetricsFile(self._folder / "metrics.csv")
        self._timing = MetricsFile(self._folder / "timing.csv")

    # -- fit ------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open training.log, log the data and the adapted layers, and write splits.json.

        Raises:
            UserError: The name of an image is no text.
        """
        assert isinstance(pl_module, AdaptationTask)
        self._started = time.monotonic()
        if not trainer.is_global_zero:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._handler = logging.FileHandler(self._folder / "training.log", encoding="utf-8", errors="backslashreplace")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(self._handler)
        log.info("Run folder: %s", self._folder)
        data = data_of(trainer)
        for split, counts in data.counts.items() if data is not None else ():
            log.info("Data: %s: %s", split, ", ".join(f"{name} {count}" for name, count in counts.items()))
        for note in data.reading_notes if data is not None else ():
            log.info("Data: %s", note)
        for note in pl_module.network.loading_notes:
            log.info("Base: %s", note)
        for line in [*lora_summary(pl_module.network), *adapted_modules(pl_module.network)]:
            log.info("%s", line)
        if data is not None and data.is_split_by_seed and not (self._folder / "splits.json").exists():
            record = data.split_record
            for name in chain.from_iterable(record.values()):
                check_text(name)
            text = json.dumps(record, indent=1) + "\n"
            write_file(self._folder / "splits.json", lambda path: path.write_text(text))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the rows of a resumed run up to its step."""
        self._interval = (time.monotonic(), trainer.global_step)
        self._step = trainer.global_step
        if trainer.is_global_zero and trainer.ckpt_path:
            self._metrics.resume(trainer.global_step)
            self._timing.resume(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Forget that a callback asked to stop before the least length of the run.

        Lightning would keep it until then, whatever the metric does meanwhile.
        """
        if trainer.should_stop and not trainer.fit_loop._can_stop_early:
            trainer.should_stop = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Add the training metrics of logged steps, and end the run after its last step."""
        step = trainer.global_step
        if step >= trainer.estimated_stepping_batches:
            # a stop ends with a validation, so the last steps can become the best checkpoint too
            trainer.should_stop = True
        ends_step = step > self._step
        self._step = step
        if trainer.is_global_zero and ends_step and step % steps_between_logs(trainer) == 0:
            wanted = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("val_")}
            self._metrics.add(trainer.global_step, {name: float(value) for name, value in wanted.items()})
            if not is_trial(trainer):
                self._metrics.save_if_due()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the seconds per training step since the last validation."""
        since, step = self._interval
        if trainer.is_global_zero and not trainer.sanity_checking and trainer.global_step > step:
            per_step = (time.monotonic() - since) / (trainer.global_step - step)
            self._timing.add(trainer.global_step, {"seconds": round(self._elapsed(), 2), "seconds_per_step": per_step})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of a validation, and give those of step 0 to the loggers, too."""
        assert isinstance(pl_module, AdaptationTask)
        self._interval = (time.monotonic(), trainer.global_step)
        if trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        figures = validation_metrics(trainer)
        if trainer.sanity_checking:
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=0)
        self._metrics.add(trainer.global_step, figures)
        self._metrics.save()
        if self._timing.rows:
            self._timing.save()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the rows up to this step, so that a resume finds them."""
        if trainer.is_global_zero and trainer.state.fn == "fit":
            self._metrics.save()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics and the summary, and say why the run ended before its time, if it did."""
        self._stopped = early_stop(trainer)
        if self._stopped and trainer.is_global_zero:
            log.info("Stopped early, %s", self._stopped)
        for callback in callbacks_of(trainer):
            if isinstance(callback, AdapterAudit):
                # its verdict on the trained network stands in the summary
                callback.close(trainer, pl_module)
        self._finish(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log where a fit stopped, and write the metrics and the summary of its steps."""
        if self._handler is not None and trainer.state.fn == "fit":
            log.info("Stopped at step %d by %s", trainer.global_step, type(exception).__name__)
            if trainer.global_step:
                self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of the run, and log whether training beat the base."""
        if not trainer.is_global_zero or is_trial(trainer):
            return
        if not (self._folder / SUMMARY).is_file():
            return
        print_report(self._folder)
        summary = json.loads((self._folder / SUMMARY).read_text())
        log.info("%s", verdict(summary))
        for note in summary["notes"]:
            log.info("%s", note)
        log.info("Run folder: %s", self._folder)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close training.log."""
        if self._handler is not None:
            log.removeHandler(self._handler)
            self._handler.close()
            self._handler = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of training so far."""
        return {"seconds": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seconds of training before this resume.

        Raises:
            UserError: If they are no number.
        """
        self.seconds = checked_state(state_dict, SUMMARY_STATE, self)["seconds"]

    def _elapsed(self) -> float:
        return self.seconds + (time.monotonic() - self._started if self._started else 0.0)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or is_trial(trainer):
            return
        assert isinstance(pl_module, AdaptationTask)
        self._metrics.save()
        text = json.dumps(self._summary(trainer, pl_module), indent=2, allow_nan=False) + "\n"
        write_file(self._folder / SUMMARY, lambda path: path.write_text(text))

    def _summary(self, trainer: Trainer, task: AdaptationTask) -> dict[str, Any]:
        callbacks = callbacks_of(trainer)
        checkpoint = next((c for c in callbacks if isinstance(c, LoRACheckpoint)), None)
        merge = next((c for c in callbacks if isinstance(c, MergeOnSave)), None)
        audit = next((c for c in callbacks if isinstance(c, AdapterAudit)), None)
        best_path = self._folder / checkpoint.best_name if checkpoint and checkpoint.best_name else None
        stats = get_lora_stats(task.network)
        done = adaptation(task.network)
        seed = os.environ.get("PL_GLOBAL_SEED")
        figures = validation_metrics(trainer)
        if checkpoint and checkpoint.monitor and checkpoint.best_score is not None:
            # what is kept is the best step, not the last one
            figures = figures | {checkpoint.monitor: checkpoint.best_score}
        return {
            "task": type(task).__name__,
            "metric": checkpoint.monitor if checkpoint else task.monitor,
            "mode": checkpoint.mode if checkpoint else task.mode,
            "baseline": _number(checkpoint.baseline) if checkpoint else None,
            "best": _number(checkpoint.best_score) if checkpoint else None,
            "best_step": checkpoint.best_step if checkpoint else None,
            "steps": trainer.global_step,
            "stopped_early": self._stopped,
            "trainable_parameters": stats["trainable_parameters"],
            "total_parameters": stats["total_parameters"],
            "lora_parameters": stats["lora_parameters"],
            "adapted_modules": len(stats["adapted_modules"]),
            "adapter_bytes": _size(best_path.with_suffix("") / ADAPTER_FILE) if best_path else None,
            "merged_bytes": _size(self._folder / merge.name / WEIGHT_FILES[0]) if merge and merge.name else None,
            "merge_max_abs_diff": _number(merge.max_abs_diff) if merge else None,
            "merge_relative_diff": _number(merge.relative_diff) if merge else None,
            "merge_quantized_diff": _number(merge.quantized_diff) if merge else None,
            "audit": audit.verdict if audit else "not run",
            "notes": task.notes(figures, "val"),
            "base": {
                "id": task.network.base,
                "quantization": quantization(task.network),
                "fingerprint": _digest(done.fingerprint) if done else None,
            },
            "best_checkpoint": best_path.name if best_path else None,
            "data": data.counts if (data := data_of(trainer)) is not None else None,
            "seed": int(seed) if seed else None,
            **surroundings(task.device),
            "seconds": round(self._elapsed(), 1),
        }

    # -- test -----------------------------------------------------------------------------------------------------

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the metrics of the test to a new file in results/."""
        if not trainer.is_global_zero:
            return
        stem = datetime.now().strftime("%Y%m%d-%H%M%S")
        # of an earlier test in this second any file may be left
        while any((self._folder / "results").glob(f"{stem}_*")):
            stem += "_again"
        path = self._folder / "results" / f"{stem}_eval.json"
        # the metrics that the task logs, and those that it only keeps
        assert isinstance(pl_module, AdaptationTask)
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        figures = {**pl_module.all_figures, **measured}
        notes = pl_module.notes(figures, "test")
        result = {
            "task": type(pl_module).__name__,
            "weights": pl_module.weights,
            "metrics": {name: _number(value) for name, value in figures.items()},
            "notes": notes,
            **surroundings(pl_module.device),
        }
        write_file(path, lambda beside: beside.write_text(json.dumps(result, indent=2) + "\n"))
        self.results = path
        for note in notes:
            log.info("%s", note)
        log.info("Results: %s", path)


def early_stop(trainer: Trainer) -> str | None:
    """Return why a run ends before its last step, in words; None at its last step."""
    if not trainer.should_stop or trainer.global_step >= trainer.estimated_stepping_batches:
        return None
    for callback in callbacks_of(trainer):
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"at step {trainer.global_step}: {reason}"
        if isinstance(callback, Timer) and (remaining := callback.time_remaining()) is not None and remaining <= 0:
            return f"at step {trainer.global_step}: max_time is over"
    return f"at step {trainer.global_step}"


def adapted_modules(network: nn.Module) -> list[str]:
    """Return a table of the adapted layers, in which layers that differ only in their numbers share a line."""
    rows: dict[tuple[str, str, int], list[int]] = {}
    done = adaptation(network)
    for path, layer in lora_layers(network).items():
        assert done is not None
        shape = " x ".join(str(size) for size in layer.weight.shape)
        key = (re.sub(r"\.\d+(?=\.|$)", ".*", path), shape, done.adapters[path].rank)
        rows.setdefault(key, []).append(count_lora_parameters(layer))
    cells = [
        (path, str(len(counts)), f"of {shape}", f"rank {rank}", f"{sum(counts):,} parameters")
        for (path, shape, rank), counts in rows.items()
    ]
    return text_table(cells, numbers=(1, 4))


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _digest(fingerprint: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:16]


def _number(value: Any) -> float | None:
    """Return a number for JSON, and None for NaN and infinity, as for the IoU of a class that does not occur."""
    return float(value) if value is not None and math.isfinite(value) else None
