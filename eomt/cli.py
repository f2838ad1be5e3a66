"""LightningCLI for all tasks: what is filled in, where a run is kept, how mistakes are told."""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The rules of the guides: no busy waiting of OpenMP threads (steps stall on shared machines). Must precede torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks import (
    AdapterAudit,
    LoRACheckpoint,
    MergeOnSave,
    PredictionPictures,
    ProgressBar,
    RunSummary,
)
from eomt.app.config import (
    assume_classes,
    configure,
    network_class_of,
    open_merged,
    read_yaml,
    stand_alone,
    starts_from_pissa,
    use_recorded_split,
    with_absolute_paths,
)
from eomt.app.log import set_up_output
from eomt.app.messages import mistake, one_line
from eomt.app.renamed import read_old_names
from eomt.app.runs import claim, find_checkpoint, make_run_name, option, step_of, with_saved_config
from eomt.app.trainer import Trainer
from eomt.errors import UserError
from eomt.lora.files import load_adapter
from eomt.tasks.base import AdaptationTask
from eomt.utils.distributed import rank
from eomt.utils.files import write_file
from eomt.utils.trainer import callbacks_of, is_trial
from eomt.verification.merging import check_output, fill_from_merged

log = logging.getLogger("eomt")

# set by the first process for those that it starts, so that all ranks name one folder
FOLDER_VARIABLE = "EOMT_RUN_FOLDER"
# commands that train and measure nothing: no run folder, no callbacks, no need of data
WITHOUT_RUN = ("inspect", "merge")
ASSUMED_CLASSES = 2


class Parser(LightningArgumentParser):
    """Tells a user's mistake in one line."""

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise UserError(one_line(ex if ex is not None else ValueError(message)))


class SaveConfig(Callback):
    """Writes the resolved configuration beside the checkpoints, and hands MergeOnSave the one that opens its file."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def setup(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        for callback in callbacks_of(trainer):
            if isinstance(callback, MergeOnSave):
                callback.config = yaml.safe_dump(stand_alone(self.config), sort_keys=False)

    def on_fit_start(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or is_trial(trainer):
            return
        path = Path(trainer.default_root_dir) / "config.yaml"
        text = yaml.safe_dump(self.config, sort_keys=False)
        if path.is_file() and path.read_text() != text:
            # a resume with other settings: what the steps before were made with is kept
            step = step_of(Path(str(trainer.ckpt_path)))
            path.rename(path.with_name(f"config_before_step{step}.yaml"))
        write_file(path, lambda beside: beside.write_text(text))


class CLI(LightningCLI):
    """fit, validate, test, predict, inspect and merge for every task.

    Beyond LightningCLI: `num_classes` and the crop size are filled in (and a different `num_classes` refused), every
    fit is audited, a run has a folder of its own, `--ckpt_path` takes checkpoints, adapter and merged folders, latest
    and best, and the command line beats whatever a checkpoint holds.
    """

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:
        self.claimed: Path | None = None
        read_old_names()
        try:
            self._start(args, run)
        except Exception:
            self._remove_claimed()
            raise
        finally:
            os.environ.pop(FOLDER_VARIABLE, None)

    def _start(self, args: Sequence[str] | None, run: bool) -> None:
        super().__init__(
            model_class=AdaptationTask,
            subclass_mode_model=True,
            # none, or `--data null` would not parse
            datamodule_class=None,
            trainer_class=Trainer,
            save_config_callback=None,
            seed_everything_default=42,
            trainer_defaults={
                "default_root_dir": "runs",
                "logger": False,
                "num_sanity_val_steps": -1,
                "use_distributed_sampler": False,
                "enable_model_summary": False,
            },
            parser_class=Parser,
            args=list(args) if args is not None else None,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(AdapterAudit, "audit")
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the run's folder; made up from the config if null.",
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Checkpoints are always read with weights_only=True, predictions are written by a callback."""
        hidden = {"weights_only", "return_predictions"}
        ours = {name: {"model", "datamodule"} for name in WITHOUT_RUN}
        return {name: skipped | hidden for name, skipped in LightningCLI.subcommands().items()} | ours

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        # Lightning's own warns whenever it is given arguments by a program that has some itself
        self.config = parser.parse_args(args)
        settings = self.config.get(self.config.get("subcommand", ""), self.config)
        for file in settings.get("config") or []:
            # jsonargparse passes over what stands at the top of a file and means nothing
            for key in read_yaml(Path(str(file))):
                if key.rstrip("+").partition(".")[0] not in settings:
                    known = ", ".join(name for name in vars(settings) if name != "config")
                    raise UserError(f"{file}: unknown field {key!r}; there are: {known}")

    def _parse_ckpt_path(self) -> None:
        """Lightning would let hyper-parameters in a checkpoint beat the command line; here they do not."""

    def before_instantiate_classes(self) -> None:
        config = self._settings
        root = Path(config.trainer.default_root_dir)
        stem = _config_stem(config)
        self.checkpoint = find_checkpoint(config.get("ckpt_path"), root, config.run_name, stem)
        self._check_settings(config)
        run = self.checkpoint.run if self.checkpoint else None
        recorded = bool(run and use_recorded_split(config, run))
        configure(config, self.checkpoint, self.subcommand == "fit")
        if config.data is None:
            assumed = ASSUMED_CLASSES if self.subcommand == "inspect" and self.checkpoint is None else None
            if assume_classes(config, assumed):
                log.info("data: null, so %d classes are assumed; else give --model.network.num_classes", assumed)
        self.folder = root
        if self.subcommand not in WITHOUT_RUN:
            self.folder = self._run_folder(root, config.run_name, make_run_name(stem, config.model))
            os.environ[FOLDER_VARIABLE] = str(self.folder)
        resolved = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False, format="yaml"))
        if recorded:
            # the record stands beside the configuration and is found again
            resolved["data"]["init_args"]["splits"] = None
        # what one call was about is no part of how the run was made
        self.resolved = with_absolute_paths(resolved) | {"ckpt_path": None, "run_name": None}
        self.resolved.pop("output", None)
        if self.checkpoint and self.checkpoint.kind == "merged":
            open_merged(config, self.checkpoint)
        elif self.checkpoint and self.checkpoint.kind == "adapter" and starts_from_pissa(config):
            # the folder holds a plain pair for the untouched base, and says itself what it adapts
            config.model.init_args.lora_config = None
        if self.subcommand in WITHOUT_RUN:
            config.trainer.logger, config.trainer.callbacks = False, None
        if config.trainer.precision is None and torch.cuda.is_available():
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            config.trainer.precision = "bf16-mixed" if bf16 else "16-mixed"

    def _check_settings(self, config: Namespace) -> None:
        if config.data is None and self.subcommand not in WITHOUT_RUN:
            raise UserError(f"data: null, but {self.subcommand} needs data; give --data and --data.path")
        if self.subcommand == "merge":
            self._check_merge(config)
        if self.checkpoint and self.checkpoint.kind == "ckpt":
            step_of(self.checkpoint.path)
        elif self.checkpoint and self.subcommand == "fit":
            raise UserError(
                f"ckpt_path: {self.checkpoint.path} holds weights but no optimiser to resume; "
                "give the .ckpt beside it, or start from merged weights with --model.network.pretrained"
            )
        if config.trainer.num_sanity_val_steps not in (0, -1):
            raise UserError(
                f"trainer.num_sanity_val_steps: {config.trainer.num_sanity_val_steps}; "
                "step 0 is validated in full (-1) or, with 0, not at all"
            )
        every, batches = config.trainer.val_check_interval, config.trainer.accumulate_grad_batches
        if isinstance(every, int) and config.trainer.check_val_every_n_epoch is None and every % batches:
            raise UserError(
                f"trainer.val_check_interval: {every} batches end inside a step of {batches} "
                f"(accumulate_grad_batches); {every * batches} would do"
            )
        if config.run_name is not None and Path(config.run_name).name != config.run_name:
            raise UserError(
                f"run_name: {config.run_name!r} is no plain name; set trainer.default_root_dir for the rest"
            )

    def _check_merge(self, config: Namespace) -> None:
        if self.checkpoint is None:
            raise UserError(
                "ckpt_path: null; give what is to be merged: a .ckpt file, an adapter folder, latest or best"
            )
        if self.checkpoint.kind == "merged":
            raise UserError(f"ckpt_path: {self.checkpoint.path} is merged already: there is nothing to merge")
        check_output(config.output, network_class_of(config).files)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        if self.subcommand in WITHOUT_RUN:
            return self._trainer_without_run()
        configured = self._get(self.config_init, "trainer")["callbacks"]
        if configured is None:
            configured = [LoRACheckpoint(), MergeOnSave(), PredictionPictures()]
        callbacks = configured if isinstance(configured, list) else [configured]
        # these are always there; what the config lists itself is not added again
        always: list[Callback] = [LoRACheckpoint()]
        if self.subcommand == "predict":
            always.append(PredictionPictures())
        callbacks = [*callbacks, *_without(always, callbacks)]
        first = [SaveConfig(self.resolved), RunSummary(), self._get(self.config_init, "audit"), ProgressBar()]
        callbacks = [*_without(first, callbacks), *callbacks]
        settings = dict(self._get(self.config_init, "trainer"))
        settings |= {"callbacks": callbacks, "default_root_dir": str(self.folder), **kwargs}
        if self.subcommand == "fit" and self.checkpoint:
            # step 0 was validated when the run began
            settings["num_sanity_val_steps"] = 0
        return _make_trainer(settings)

    def _trainer_without_run(self) -> Trainer:
        """One process and one device, whatever training would use."""
        configured = self._get(self.config_init, "trainer")
        settings = {name: configured[name] for name in ("accelerator", "precision", "log_every_n_steps")}
        # a limit in steps: the schedule then asks for no training data
        settings |= {"devices": 1, "logger": False, "max_epochs": -1, "max_steps": 1}
        settings |= {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = _make_trainer(settings)
        trainer.allow_random_base = self._get(self.config_init, "audit").allow_random_base
        trainer.merged_config = yaml.safe_dump(stand_alone(self.resolved), sort_keys=False)
        return trainer

    def after_instantiate_classes(self) -> None:
        # for the merged files
        self.model.network.class_names = self._class_names()
        if self.checkpoint is None:
            return
        self.model.weights = str(self.checkpoint.path)
        if self.checkpoint.kind == "adapter":
            load_adapter(self.model.network, self.checkpoint.path)
        elif self.checkpoint.kind == "merged" and not self.model.network.opens(self.checkpoint.path):
            fill_from_merged(self.model.network, self.checkpoint.path)

    def _class_names(self) -> list[str] | None:
        """Those of the data or, without, of the checkpoint's run or, without one, of the pre-trained network."""
        names = self.datamodule.class_names if self.datamodule is not None else None
        if not names and self.checkpoint and self.checkpoint.run:
            data = read_yaml(self.checkpoint.run / "config.yaml").get("data") or {}
            names = (data.get("init_args") or {}).get("class_names")
        elif not names and self.checkpoint is None:
            names = self.model.network.class_names
        return list(names) if names else None

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        arguments["ckpt_path"] = (
            str(self.checkpoint.path) if self.checkpoint and self.checkpoint.kind == "ckpt" else None
        )
        if arguments["ckpt_path"] and subcommand not in WITHOUT_RUN:
            arguments["weights_only"] = True
        if subcommand == "predict":
            # keeping them all would fill the memory
            arguments["return_predictions"] = False
        return arguments

    @property
    def _settings(self) -> Namespace:
        return self.config[self.subcommand] if self.subcommand else self.config

    def _run_folder(self, root: Path, run_name: str | None, made_up: str) -> Path:
        """Made once, by the first process. A run that exists is only ever resumed, and in its own folder."""
        folder = root / (run_name or made_up)
        run = self.checkpoint.run if self.checkpoint else None
        if run is not None:
            if run_name is not None and folder.resolve() != run.resolve():
                raise UserError(
                    f"run_name: {run_name!r}, but the checkpoint belongs to {run}; "
                    "leave run_name out, or copy that folder to branch off"
                )
            return run
        if shared := os.environ.get(FOLDER_VARIABLE):
            return Path(shared)
        if self.subcommand != "fit" and folder.exists():
            raise UserError(
                f"run_name: {folder} exists; to measure that run add --ckpt_path best, or choose another name"
            )
        if rank() == 0:
            folder = self.claimed = claim(folder, is_made_up=run_name is None)
        return folder

    def _remove_claimed(self) -> None:
        """Leaves nothing half-written: without a checkpoint a new run's folder only blocks its name."""
        if self.claimed and self.subcommand == "fit" and not any(self.claimed.glob("*.ckpt")):
            shutil.rmtree(self.claimed, ignore_errors=True)
        elif self.claimed and not any(self.claimed.iterdir()):
            self.claimed.rmdir()

    def _run_subcommand(self, subcommand: str) -> None:
        super()._run_subcommand(subcommand)
        if self._settings.trainer.fast_dev_run:
            self._remove_claimed()


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command; a user's mistake is one line on stderr and exit status 2."""
    set_up_output()
    try:
        arguments = with_saved_config(list(sys.argv[1:] if args is None else args))
        if given := option(arguments, "--config") or option(arguments, "-c"):
            read_yaml(Path(given))
        CLI(arguments)
    except SIGTERMException:
        # Lightning saves and then exits with 0, as if the run had ended
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        found = mistake(error)
        if found is None:
            raise
        if rank() == 0:
            print(f"error: {one_line(found)}", file=sys.stderr)
        sys.exit(2)


def _make_trainer(settings: dict[str, Any]) -> Trainer:
    try:
        return Trainer(**settings)
    except (ValueError, TypeError) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from error


def _without(callbacks: list[Callback], given: list[Callback]) -> list[Callback]:
    """Those of `callbacks` of whose kind none is given."""
    return [callback for callback in callbacks if not any(isinstance(other, type(callback)) for other in given)]


def _config_stem(config: Namespace) -> str:
    files = config.get("config") or []
    return Path(str(files[0])).stem if files else "run"
