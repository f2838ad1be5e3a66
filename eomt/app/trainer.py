"""Lightning's Trainer with the commands that train nothing."""

from pathlib import Path
from typing import Any

import lightning.pytorch
from lightning.pytorch import LightningDataModule

from eomt.app import inspection
from eomt.app.runs import load_checkpoint
from eomt.errors import UserError
from eomt.lora.layers import lora_layers
from eomt.tasks.base import AdaptationTask
from eomt.verification.memory import first_samples
from eomt.verification.merging import ORIGINAL_SUFFIX, TOLERANCE, check_output, merged_copy, write_merged

# of the batch that stands for data where none is configured
ASSUMED_BATCH_SIZE = 4


class Trainer(lightning.pytorch.Trainer):
    """fit, validate, test and predict as Lightning does them, and what is done without a training loop.

    Attributes:
        merged_config: What `merge` writes beside the weights so that they open by themselves; set by the command line.
        allow_random_base: Whether `inspect` takes frozen weights that no file filled; set by the command line.
    """

    merged_config: str | None = None
    allow_random_base: bool = False

    def inspect(self, model: AdaptationTask, datamodule: Any = None, ckpt_path: str | None = None) -> None:
        """Show what would be trained, its size, memory and data, and audits it; trains and writes nothing.

        Args:
            model: A task.
            datamodule: Where the audited batch comes from, a LightningDataModule that keeps `TaskData`; a synthetic one
                is made up without.
            ckpt_path: A .ckpt file, an adapter or merged folder, latest or best, to be inspected in place of the start.

        Raises:
            UserError: For a fault that would stop a fit.
        """
        self._take(model, ckpt_path)
        network = model.network
        for line in inspection.module_lines(network):
            print(line)
        print(inspection.adapter_line(network))
        print(inspection.base_line(model, self.allow_random_base))
        self.optimizers = [model.configure_optimizers()["optimizer"]]
        if datamodule is None:
            print(f"Batch: synthetic, of {ASSUMED_BATCH_SIZE}: there is no data; the audit takes one image of it")
            batch = model.synthetic_batch(ASSUMED_BATCH_SIZE)
        elif reason := inspection.not_there_yet(datamodule):
            batch = model.synthetic_batch(datamodule.batch_size)
            print(f"Batch: synthetic: `fit` makes the data, and has not yet ({reason})")
        else:
            for line in inspection.data_lines(datamodule):
                print(line)
            batch = inspection.real_batch(model, datamodule)
        batch = self._to_device(model, batch)
        context = self.precision_plugin.forward_context
        for line in inspection.memory_lines(model, batch, context):
            print(line, flush=True)
        # nothing that a made-up image shows is shown better by four
        audited = first_samples(batch, 1) if datamodule is None else batch
        with context():
            report = model.audit(audited, self.optimizers)
        report.require()
        print(f"Audit: {report}")

    def merge(
        self,
        model: AdaptationTask,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        output: str | None = None,
    ) -> None:
        """Writes the stand-alone model of a checkpoint or adapter: merged, compared, one safetensors file.

        Args:
            model: a task.
            datamodule: where the batch comes from on which answers are compared; a synthetic one is made up without.
            ckpt_path: a .ckpt file, an adapter folder, latest or best.
            output: folder that is made, or replaced if it holds a merged model; or, of a SAM2, a .pt file with the
                names of its authors.

        Raises:
            UserError: if merged and adapted network answer differently, or the folder is something else.
        """
        check_output(output, model.network.files)
        assert output is not None
        self._take(model, ckpt_path)
        batch, source = self._batch_to_compare(model, datamodule)
        count = len(lora_layers(model.network))
        merged, _, difference = merged_copy(model.network, self._to_device(model, batch), model.outputs)
        # written so that NaN is refused too
        if not difference <= TOLERANCE:
            raise UserError(
                f"merge: merged and adapted network differ by {difference:.1e} on {source} (relative; at most "
                f"{TOLERANCE:.0e} is allowed): nothing written; are weights or adapters not finite, or very large?"
            )
        print(f"Merged {count} adapters: answers differ by {difference:.1e} (relative) on {source}")
        path = Path(output).resolve()
        if path.suffix == ORIGINAL_SUFFIX:
            merged.write_original(path)
        else:
            write_merged(merged, path, self.merged_config)
        size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
        print(f"Merged model: {output} ({size:,} bytes)")

    def _take(self, task: AdaptationTask, ckpt_path: str | None) -> None:
        """Attaches a task and fills it from a .ckpt."""
        task.trainer = self
        if ckpt_path is not None:
            load_checkpoint(task, Path(ckpt_path))
        task.to(self.strategy.root_device)

    def _to_device(self, task: AdaptationTask, batch: Any) -> Any:
        return task.transfer_batch_to_device(batch, self.strategy.root_device, 0)

    def _batch_to_compare(self, task: AdaptationTask, datamodule: LightningDataModule | None) -> tuple[Any, str]:
        """A batch, and what it is."""
        if datamodule is None:
            return task.synthetic_batch(1), "a synthetic batch (no data was given)"
        try:
            datamodule.setup("validate")
            return next(iter(datamodule.val_dataloader())), "the first validation batch"
        except UserError as error:
            return task.synthetic_batch(1), f"a synthetic batch ({error})"
