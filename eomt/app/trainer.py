"""Lightning's Trainer with the commands that train nothing."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning.pytorch
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger

from eomt.app import inspection
from eomt.app.checkpoint_files import load_checkpoint
from eomt.app.data_look import look_lines
from eomt.app.demonstration import show_demo
from eomt.app.log import show
from eomt.app.sharded import register_sharded
from eomt.app.sweep_settings import SweepSettings
from eomt.errors import UserError
from eomt.lora.layers import lora_layers
from eomt.models.network import Network
from eomt.tasks.base import AdaptationTask
from eomt.verification.memory import first_samples
from eomt.verification.merging import (
    ORIGINAL_SUFFIX,
    TOLERANCE,
    check_output,
    merged_copy,
    quantized_difference,
    write_merged,
)

log = logging.getLogger("eomt")

# size of the synthetic batch where no data is configured
ASSUMED_BATCH_SIZE = 4
# where `inspect` draws samples of data with masks
PICTURES = "inspected"
# the source of a batch that is no synthetic one
FIRST_BATCH = "the first validation batch"


class Trainer(lightning.pytorch.Trainer):
    """Lightning's Trainer with more commands, `inspect`, `merge`, `export`, `demo` and `sweep`, without a loop.

    Attributes:
        merged_config: Configuration that `merge` writes beside the weights to open them; set by the command line.
        data_arguments: Constructor arguments of the data, for what only they know; set by the command line.
        weights_name: Name of the weights that a command opened, for people; set by the command line.
        sweep_settings: What `sweep` needs to know; set by the command line.
        allow_random_base: Whether `inspect` accepts frozen weights that are random; set by the command line.
    """

    merged_config: str | None = None
    weights_name: str = ""
    sweep_settings: SweepSettings | None = None
    allow_random_base: bool = False
    data_arguments: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Lightning counts batches here, one behind the optimizer's steps in training and ahead of them after a resume
        connector = self._logger_connector
        log_metrics = connector.log_metrics

        def at_step(metrics: dict[str, Any], step: int | None = None) -> None:
            if step is not None or not metrics:
                log_metrics(metrics, step)
            else:
                log_metrics({"epoch": self.current_epoch} | metrics, self.global_step)

        vars(connector)["log_metrics"] = at_step

    def inspect(
        self,
        model: AdaptationTask,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        gpu_memory: str | None = None,
    ) -> None:
        """Show what would be trained, its size, memory and data, and audit it; nothing is trained.

        Of data with masks, pictures of some samples are written.

        Args:
            model: A task.
            datamodule: Source of the audited batch, a LightningDataModule that keeps `TaskData`; without it, the
                batch is synthetic.
            ckpt_path: A .ckpt file, an adapter or merged folder, latest or best to inspect; None inspects the state
                before training.
            gpu_memory: Memory of a GPU, such as 8GB, for which the largest batch is named; None takes that of the GPU
                that is used, if one is.

        Raises:
            UserError: If a fault would stop a fit.
        """
        limit = None if gpu_memory is None else inspection.bytes_of(gpu_memory)
        self._attach(model, ckpt_path)
        if limit is None and model.device.type == "cuda":
            limit = torch.cuda.get_device_properties(model.device).total_memory
        network = model.network
        for line in inspection.module_lines(network):
            show(line)
        show(inspection.adapter_line(network))
        show(inspection.base_line(model, self.allow_random_base))
        for note in network.loading_notes:
            show(f"Base: {note}")
        self.optimizers = [model.configure_optimizers()["optimizer"]]
        if datamodule is None:
            show(f"Batch: synthetic, of {ASSUMED_BATCH_SIZE}: there is no data; the audit takes one image of it")
            batch = model.synthetic_batch(ASSUMED_BATCH_SIZE)
        elif reason := inspection.missing_data_reason(datamodule):
            batch = model.synthetic_batch(datamodule.batch_size)
            show(f"Batch: synthetic: `fit` makes the data, and has not yet ({reason})")
        else:
            for line in inspection.data_lines(datamodule):
                show(line)
            for line in look_lines(datamodule, Path(self.default_root_dir) / PICTURES):
                show(line)
            batch = inspection.first_training_batch(model, datamodule)
        batch = self._to_device(model, batch)
        context = self.precision_plugin.forward_context
        for line in inspection.memory_lines(model, batch, context, limit):
            show(line)
        if kept := inspection.kept_line(model, batch, datamodule, context):
            show(kept)
        # one synthetic image shows as much as four
        audited = first_samples(batch, 1) if datamodule is None else batch
        with context():
            report = model.audit(audited, self.optimizers)
        report.require()
        show(f"Audit: {report}")

    def merge(
        self,
        model: AdaptationTask,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str | None = None,
    ) -> None:
        """Write the stand-alone model of a checkpoint or adapter, a folder with safetensors, after a comparison.

        Args:
            model: A task.
            datamodule: Source of the batch on which both networks are compared; without it, the batch is synthetic.
            ckpt_path: A .ckpt file, an adapter folder, latest or best.
            output: Folder to create; a folder with a merged model is replaced. For a SAM2 also a .pt file, which
                gets the names of its authors.

        Raises:
            UserError: If merged and adapted network answer differently, or the folder holds something else.
        """
        check_output(output, model.network.files)
        assert output is not None
        self._attach(model, ckpt_path)
        batch, source = self._comparison_batch(model, datamodule)
        merged = self._merged(model, batch, source)
        path = Path(output).resolve()
        if path.suffix == ORIGINAL_SUFFIX:
            merged.write_original(path)
        else:
            write_merged(merged, path, self.merged_config)
        size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
        show(f"Merged model: {output} ({size:,} bytes)")

    def export(
        self,
        model: AdaptationTask,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str | None = None,
        format: str = "onnx",
        dtype: str = "fp32",
        opset: int = 18,
        anomaly: list[str] | None = None,
        limit: int = 64,
        check: list[str] | None = None,
    ) -> None:
        """Write the graphs of a checkpoint, adapter or merged folder, once their own runtime answers as PyTorch does.

        Args:
            model: A task.
            datamodule: Source of the validation samples on which both are compared; without it, they are synthetic.
            ckpt_path: A .ckpt file, an adapter or merged folder, latest or best.
            output: Folder to create; a folder with an exported model is replaced.
            format: onnx; openvino; torch, a program of torch.export; or safetensors, which is what `merge` writes.
            dtype: Precision inside of the graphs, fp32 or fp16; inputs and outputs stay in fp32.
            opset: Version of ONNX's operators, 18 to 20.
            anomaly: Anomaly scores that a graph of semantic segmentation computes, too, such as [msp,rba].
            limit: Validation samples on which the task's figures are compared, at most.
            check: Further runtimes that must give the same answers: [openvino].

        Raises:
            UserError: If graphs and network answer differently, or the folder holds something else.
        """
        from eomt.export.options import ExportOptions, check_export_output
        from eomt.export.run import Samples, export_network, report

        options = ExportOptions(format, dtype, opset, tuple(anomaly or ()), limit, tuple(check or ()))
        if options.format == "safetensors":
            self.merge(model, datamodule, ckpt_path, output)
            return
        check_export_output(output)
        assert output is not None
        self._attach(model, ckpt_path)
        batch, source = self._comparison_batch(model, datamodule)
        merged = self._merged(model, batch, source)
        is_real = source == FIRST_BATCH and datamodule is not None
        samples = Samples(
            batch,
            lambda: _up_to(options.limit, datamodule.val_dataloader() if is_real and datamodule else [batch]),
            "validation samples" if is_real else source,
            self.data_arguments,
        )
        record = export_network(model, merged, samples, Path(output).resolve(), options, self.weights_name)
        for line in report(record):
            show(line)
        size = sum(file.stat().st_size for file in Path(output).rglob("*") if file.is_file())
        show(f"Exported model: {output} ({size:,} bytes)")

    def demo(
        self,
        model: AdaptationTask,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        host: str = "127.0.0.1",
        port: int | None = None,
        adapter: list[str] | None = None,
    ) -> None:
        """Show a page to try a model on, until Ctrl-C.

        Args:
            model: A task.
            datamodule: Not looked at.
            ckpt_path: A .ckpt file, an adapter or merged folder, latest or best.
            host: Address that is served; with the default, from this machine alone.
            port: Port of that address; null takes the first that is free, from 7860 on.
            adapter: Other adapters of the same base to switch to, as NAME=FOLDER; may be given several times.

        Raises:
            UserError: If Gradio is not installed, the port is taken, an adapter is of another base, or the task has no
                page.
        """
        self._attach(model, ckpt_path)
        model.eval().requires_grad_(False)
        show_demo(model, self.data_arguments, host, port, adapter or [])

    def sweep(
        self,
        model: AdaptationTask,
        datamodule: Any = None,
        ckpt_path: str | None = None,
        budget: str | None = None,
        ways: str | None = None,
        rates: str | None = None,
        grid: list[str] | None = None,
        folds: int = 3,
        workers: int | None = None,
        learning_curve: bool = False,
        launcher: str = "local",
    ) -> None:
        """Find the way of training, and its learning rate, that is best for a data set.

        Each way is searched for its rate, worse trainings are given up early, and the best of each way is measured on
        several folds. The winner is tested, once. What was stopped goes on with `--run_name` and its folder's name.

        Args:
            model: A task.
            datamodule: Source of the images.
            ckpt_path: Must be null: a sweep trains from the base.
            budget: What it may take, a time (30m, 2h) or a number of trainings; null for all that it needs.
            ways: Some of heads, last (blocks), attention, attention_mlp, given and full, with commas; null for all.
            rates: Learning rates of each way, such as 3e-4,1e-3; null searches around those that are usual for a way.
            grid: Values of any other field, FIELD=V1,V2, such as model.lora_config.rank=4,8,16; may be given several
                times.
            folds: How often each way's best is trained and measured anew, with another split and seed.
            workers: Trainings at a time; null takes one for each GPU, or else for each core.
            learning_curve: Train the winner on a quarter and on half of the images, too, and say what more would bring.
            launcher: Where trainings run: local, on this machine, or ray, on the cluster that RAY_ADDRESS names.

        Raises:
            UserError: If an option is wrong, the data cannot be used, or nothing came of the budget.
        """
        from eomt.app.launching import checked_launcher
        from eomt.app.sweeping import run_sweep
        from eomt.sweep.options import Budget, SweepOptions, names_of, rates_of

        options = SweepOptions(
            Budget.of_text(budget),
            folds,
            names_of(ways),
            rates_of(rates),
            tuple(grid or ()),
            workers,
            learning_curve,
            checked_launcher(launcher),
        )
        assert self.sweep_settings is not None
        run_sweep(model, datamodule, Path(self.default_root_dir), self.sweep_settings, options)

    def _merged(self, task: AdaptationTask, batch: Any, source: str) -> Network:
        """Return a merged copy of a task's network that answers a batch alike.

        Raises:
            UserError: If it does not.
        """
        count = len(lora_layers(task.network))
        batch = self._to_device(task, batch)
        merged, _, difference = merged_copy(task.network, batch, task.outputs)
        # not `>`, so that NaN is refused too
        if not difference <= TOLERANCE:
            raise UserError(
                f"merge: merged and adapted network differ by {difference:.1e} on {source} (relative; at most "
                f"{TOLERANCE:.0e} is allowed), and nothing was written; check that all weights are finite and not large"
            )
        if count:
            show(f"Merged {count} adapters: answers differ by {difference:.1e} (relative) on {source}")
        if (apart := quantized_difference(task.network, merged, batch, task.outputs)) is not None:
            show(f"The base is not quantized in it: answers differ by {apart:.1e} from those over the quantized base")
        return merged

    def _attach(self, task: AdaptationTask, ckpt_path: str | None) -> None:
        """Attach a task, and fill it from a .ckpt file if there is one."""
        task.trainer = self
        if ckpt_path is not None:
            load_checkpoint(task, Path(ckpt_path))
        task.to(self.strategy.root_device)

    def _to_device(self, task: AdaptationTask, batch: Any) -> Any:
        return task.transfer_batch_to_device(batch, self.strategy.root_device, 0)

    def _comparison_batch(self, task: AdaptationTask, datamodule: LightningDataModule | None) -> tuple[Any, str]:
        """Return a batch, and a text that says where it is from."""
        if datamodule is None:
            return task.synthetic_batch(1), "a synthetic batch (no data was given)"
        try:
            inspection.set_up(datamodule, "validate")
            return next(iter(datamodule.val_dataloader())), FIRST_BATCH
        except UserError as error:
            return task.synthetic_batch(1), f"a synthetic batch ({error})"


def _up_to(limit: int, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches of at most `limit` samples together."""
    for batch in batches:
        yield first_samples(batch, limit)
        limit -= len(batch["image"])
        if limit <= 0:
            return


def build_trainer(settings: dict[str, Any]) -> Trainer:
    """Return a trainer.

    Args:
        settings: Arguments of its constructor.

    Raises:
        UserError: If Lightning refuses one.
    """
    register_sharded()
    try:
        trainer = Trainer(**settings)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"trainer: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    _keep_logged_rows(trainer)
    return trainer


def _keep_logged_rows(trainer: Trainer) -> None:
    """Rename the file of an earlier command where a CSVLogger would begin one: Lightning deletes it.

    So it does when a run is resumed or measured, too, if the logger was given a version.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLogger) or not trainer.is_global_zero:
            continue
        file = Path(logger.log_dir) / "metrics.csv"
        if file.is_file():
            numbered = (file.with_name(f"metrics_{number}.csv") for number in count(1))
            earlier = next(path for path in numbered if not path.exists())
            file.rename(earlier)
            log.info("%s: the rows of an earlier command are kept in %s", file, earlier.name)
