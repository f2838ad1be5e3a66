"""The commands of all tasks: their arguments, the configuration that is completed, and the folders of runs."""

import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from callbacks import AdapterAudit
from callbacks.results.prediction_files import goes_on_in, refuse_failures
from eomt.app.callbacks import run_callbacks
from eomt.app.checks import COMMANDS_WITHOUT_RUN, check_settings, check_trainer
from eomt.app.config import (
    assume_classes,
    configure,
    expand_paths,
    keep_saved_data,
    open_merged,
    standalone_config,
    starts_from_pissa,
    use_recorded_split,
    with_absolute_paths,
)
from eomt.app.leftovers import remove_leftovers
from eomt.app.messages import constructor_of, find_user_error, one_line, root_of
from eomt.app.names import plain, read_yaml_by_our_rules
from eomt.app.parser import SETTINGS, Parser
from eomt.app.ranks import check_launch, peer_error, watch_ranks
from eomt.app.reading import read_yaml
from eomt.app.run_lock import PREDICT_LOCK, RunLock
from eomt.app.runs import (
    CONFIG,
    RunConfiguration,
    create_run_folder,
    find_checkpoint,
    make_run_name,
    refuse_going_back,
    run_of_config,
)
from eomt.app.shared_folder import forget_folder, share_folder, shared_folder
from eomt.app.signals import undisturbed
from eomt.app.sweep_settings import SWEEP_FIELDS, sweep_settings
from eomt.app.trainer import Trainer, build_trainer
from eomt.app.uploads import Sharing, check_hub, upload
from eomt.errors import UserError
from eomt.export.options import EXPORT_FIELDS
from eomt.lora.files import load_adapter
from eomt.sweep.jobs import Work
from eomt.tasks.base import AdaptationTask
from eomt.utils.lazy import import_all
from eomt.utils.rank import rank
from eomt.verification.audit import random_names
from eomt.verification.merging import fill_from_merged

log = logging.getLogger("eomt")

# for `inspect` where nothing gives the number of classes
ASSUMED_CLASSES = 2


class CLI(LightningCLI):
    """The commands fit, validate, test, predict, inspect, merge, export, demo and sweep for every task.

    It adds to LightningCLI:

    - `num_classes` and the crop size are filled in, and a different `num_classes` is refused.
    - Every fit is audited, and every run has a folder of its own.
    - `--ckpt_path` takes checkpoints, adapter folders, merged folders, `latest` and `best`.
    - The command line takes precedence over hyper-parameters in a checkpoint.

    Args:
        args: Arguments of the command; None takes those of the process.
        run: Run the command; False only builds its parts.
        sharing, trial: Return what uploads weights for `--hub`, and what a process of `sweep` does.
    """

    def __init__(
        self,
        args: Sequence[str] | None = None,
        run: bool = True,
        sharing: Callable[[], Sharing] | None = None,
        trial: Callable[[], Work] | None = None,
    ) -> None:
        self.sharing, self.trial = sharing, trial
        self.created_folder: Path | None = None
        self.lock: RunLock | None = None
        read_yaml_by_our_rules()
        try:
            self._start(args, run)
            self.created_folder = None
        except BaseException as error:
            if peer := peer_error(error, getattr(self, "trainer", None)):
                raise peer from error
            raise
        finally:
            # here, where a second Ctrl-C does not pass it by: without its lock nobody would know the folder as one
            with undisturbed():
                self._remove_created_folder()
                forget_folder()
                if self.lock is not None:
                    self.lock.release()

    def _start(self, args: Sequence[str] | None, run: bool) -> None:
        import_all("datamodules", "eomt.models", "eomt.tasks")
        self.given = given = list(sys.argv[1:] if args is None else args)
        known = self.subcommands()
        if given and given[0] in known:
            # the parser of each other command takes an eighth of a second, and is not needed
            vars(self)["subcommands"] = lambda: {given[0]: known[given[0]]}
        super().__init__(
            model_class=AdaptationTask,
            subclass_mode_model=True,
            # with a class here, `--data null` would not parse
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
            parser_kwargs={name: value for name, value in SETTINGS.items() if name in self.subcommands()},
            args=list(args) if args is not None else None,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--audit.*`, and the options of a command that are no part of a run."""
        parser.add_lightning_class_args(AdapterAudit, "audit")
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Name of the run's folder; made up from the config if null.",
        )
        parser.add_argument(
            "--trust",
            action="store_true",
            help="Take all of the config that lies beside --ckpt_path, other packages' classes too, which run code.",
        )
        parser.add_argument(
            "--hub",
            type=str | None,
            default=None,
            metavar="USER/NAME",
            help="Repository to which fit uploads the best weights at its end, and merge the merged model; see push.",
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return each command with the arguments that the command line hides.

        Checkpoints are always read with `weights_only=True`, and a callback writes predictions: neither can be set.
        """
        ours = {name: {"model", "datamodule"} for name in COMMANDS_WITHOUT_RUN}
        hidden = {"weights_only", "return_predictions"}
        return {name: skipped | hidden for name, skipped in LightningCLI.subcommands().items()} | ours

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments, and refuse unknown fields at the top of a configuration file.

        Raises:
            UserError: If an argument, or a field of a file, is unknown or has a wrong value.
        """
        # Lightning's method warns if `args` is given while the process has arguments too
        self.config = plain(parser.parse_args(args))
        settings = self.config.get(self.config.get("subcommand", ""), self.config)
        # what was saved with weights has no file here
        for file in filter(None, settings.get("config") or []):
            # jsonargparse ignores unknown fields at the top of a file
            for key in read_yaml(Path(str(file))):
                if key.rstrip("+").partition(".")[0] not in settings:
                    known = ", ".join(name for name in vars(settings) if name != "config")
                    raise UserError(f"{file}: unknown field {key!r}; there are: {known}")
        expand_paths(settings)
        # before Lightning sets the seed
        check_trainer(settings)

    def _parse_ckpt_path(self) -> None:
        """Leave the arguments as they are: Lightning would let hyper-parameters in a checkpoint replace them."""

    def before_instantiate_classes(self) -> None:
        """Complete and check the configuration, and choose the run's folder, before anything is built.

        Raises:
            UserError: If a value is not allowed, or the checkpoint or the data cannot be used.
        """
        config = self._settings
        self.folder = root = Path(config.trainer.default_root_dir)
        # what was saved with weights has no file here
        file = next((Path(str(given)) if given else Path(CONFIG) for given in config.get("config") or []), None)
        stem = file.stem if file else "run"
        classes = (config.model.class_path, (config.data or {}).get("class_path"))
        known = RunConfiguration(stem, classes, run_of_config(file))
        self.checkpoint = find_checkpoint(config.get("ckpt_path"), root, config.run_name, known)
        check_settings(config, self.subcommand, self.checkpoint, self.given)
        run = self.checkpoint.run if self.checkpoint else None
        recorded = bool(run and use_recorded_split(config, run, self.subcommand == "fit"))
        configure(config, self.checkpoint, self.subcommand == "fit")
        if config.data is None:
            assumed = ASSUMED_CLASSES if self.subcommand == "inspect" and self.checkpoint is None else None
            if assume_classes(config, assumed):
                log.info("data: null, so %d classes are assumed; give --model.network.num_classes if not so", assumed)
        if self.subcommand not in COMMANDS_WITHOUT_RUN:
            self.folder = self._run_folder(root, config.run_name, make_run_name(stem, config.model))
            if self.subcommand == "fit" and rank() == 0:
                self.lock = RunLock(self.folder)
                remove_leftovers(self.folder)
            elif self.subcommand == "predict" and rank() == 0:
                self.lock = RunLock(self.folder, PREDICT_LOCK)
            share_folder(self.folder)
        parser = self._parser(self.subcommand)
        resolved = yaml.safe_load(parser.dump(config, skip_none=False, format="yaml"))
        if recorded:
            # the record lies beside the saved configuration, where later commands find it
            resolved["data"]["init_args"]["splits"] = None
        # these belong to this command, not to the run
        own = {"output", "trust", "hub", *EXPORT_FIELDS, *SWEEP_FIELDS}
        resolved = {name: value for name, value in with_absolute_paths(resolved).items() if name not in own}
        self.resolved = keep_saved_data(resolved | {"ckpt_path": None, "run_name": None}, self.checkpoint)
        self.sweep_settings = sweep_settings(config, self.subcommand, self.resolved, stem, self.trial, parser)
        check_hub(config, self.subcommand, self.resolved, self.sharing)
        if self.checkpoint and self.checkpoint.kind == "merged":
            open_merged(config, self.checkpoint)
        elif self.checkpoint and self.checkpoint.kind == "adapter" and starts_from_pissa(config):
            # the folder holds a plain pair for the unchanged base, and names the layers that it adapts
            config.model.init_args.lora_config = None
        if self.subcommand in COMMANDS_WITHOUT_RUN:
            config.trainer.logger, config.trainer.callbacks = False, None
        if config.trainer.precision is None and torch.cuda.is_available():
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            config.trainer.precision = "bf16-mixed" if bf16 else "16-mixed"

    def instantiate_classes(self) -> None:
        """Build what the configuration names.

        Raises:
            UserError: If a constructor refuses what it was given.
        """
        try:
            super().instantiate_classes()
        except Exception as error:
            if find_user_error(error) is not None:
                raise
            raise UserError(f"{constructor_of(error)}: {one_line(root_of(error))}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the callbacks of the configuration and those that every run has."""
        if self.subcommand in COMMANDS_WITHOUT_RUN:
            return self._trainer_without_run()
        settings = dict(self._get(self.config_init, "trainer"))
        callbacks = run_callbacks(settings, self.subcommand, self.resolved, self._get(self.config_init, "audit"))
        settings |= {"callbacks": callbacks, "default_root_dir": str(self.folder), **kwargs}
        if self.subcommand == "fit" and self.checkpoint:
            # step 0 was validated when the run began
            settings["num_sanity_val_steps"] = 0
        trainer = build_trainer(settings)
        check_launch(trainer)
        watch_ranks(trainer)
        return trainer

    def _trainer_without_run(self) -> Trainer:
        """Build a trainer with one process and one device, whatever the configuration says."""
        given = self._get(self.config_init, "trainer")
        settings = {key: given[key] for key in ("default_root_dir", "accelerator", "precision", "log_every_n_steps")}
        # with a limit in steps, the learning-rate schedule does not ask for training data
        settings |= {"max_steps": 1, "max_epochs": -1, "devices": 1, "logger": False}
        settings |= {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = build_trainer(settings)
        trainer.allow_random_base = self._get(self.config_init, "audit").allow_random_base
        trainer.data_arguments = (self.resolved.get("data") or {}).get("init_args") or {}
        trainer.weights_name = self.checkpoint.path.name if self.checkpoint else ""
        trainer.sweep_settings = self.sweep_settings
        trainer.merged_config = yaml.safe_dump(standalone_config(self.resolved), sort_keys=False)
        return trainer

    def after_instantiate_classes(self) -> None:
        """Fill the network from an adapter or merged folder, and name its classes.

        Raises:
            UserError: If the weights do not fit the network.
        """
        # merged files hold them
        self.model.network.class_names = self._class_names()
        if self.checkpoint is None:
            if self.subcommand in ("validate", "test", "predict"):
                self._check_weights()
            if self.subcommand == "predict":
                log.warning("ckpt_path: null, so these are answers of the base as it came; for a run's give best")
            return
        self.model.weights = str(self.checkpoint.path)
        if self.checkpoint.kind == "adapter":
            load_adapter(self.model.network, self.checkpoint.path)
        elif self.checkpoint.kind == "merged" and not self.model.network.opens(self.checkpoint.path):
            fill_from_merged(self.model.network, self.checkpoint.path)

    def _check_weights(self) -> None:
        """Check that no answer hangs on weights that are neither trained nor read from a file.

        Raises:
            UserError: If one does, and `--audit.allow_random_base` is false.
        """
        random = random_names(self.model.network)
        if random and not self._get(self.config_init, "audit").allow_random_base:
            raise UserError(
                f"ckpt_path: null, and {random[0]!r} is random ({len(random)} such tensors), so answers would be "
                "chance; give --ckpt_path, or, for a smoke test, --audit.allow_random_base true"
            )

    def _class_names(self) -> list[str] | None:
        """Return the names of the classes, or None if nothing names them.

        The data names them. If it does not, the run that the checkpoint belongs to does. Without a checkpoint, the
        pre-trained network does.
        """
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
        if arguments["ckpt_path"] and subcommand not in COMMANDS_WITHOUT_RUN:
            arguments["weights_only"] = True
        if subcommand == "predict":
            # Lightning would keep all predictions in memory
            arguments["return_predictions"] = False
        return arguments

    @property
    def _settings(self) -> Namespace:
        return self.config[self.subcommand] if self.subcommand else self.config

    def _run_folder(self, root: Path, run_name: str | None, generated_name: str) -> Path:
        """Return the folder of the run: the checkpoint's own, or a new one that the first process creates.

        A fit with a name of its own branches off: it goes on from another run's checkpoint in a new folder.

        Raises:
            UserError: If the folder exists, or what a run did since the checkpoint would be replaced.
        """
        folder = root / (run_name or generated_name)
        run = self.checkpoint.run if self.checkpoint else None
        if run is not None and (run_name is None or folder.resolve() == run.resolve()):
            if self.checkpoint and self.subcommand == "fit":
                refuse_going_back(run, self.checkpoint.path)
            return run
        if shared := shared_folder():
            return shared
        if self.subcommand == "predict" and run_name is not None and goes_on_in(folder):
            return folder
        if self.subcommand != "fit" and run_name is not None and folder.exists():
            raise UserError(
                f"run_name: {folder} exists; to measure that run add --ckpt_path best, or choose another name"
            )
        if rank() == 0:
            folder = self.created_folder = create_run_folder(folder, is_generated=run_name is None)
        return folder

    def _remove_created_folder(self) -> None:
        """Remove the new run's folder if nothing was trained in it, so that its name can be used again."""
        folder = self.created_folder
        trainer = getattr(self, "trainer", None)
        # figures and log of a training that left no checkpoint say why
        was_trained = trainer is not None and trainer.global_step > 0 and not trainer.fast_dev_run
        if folder and self.subcommand == "fit" and not was_trained and not any(folder.glob("*.ckpt")):
            shutil.rmtree(folder, ignore_errors=True)
            return
        if self.lock is not None and self.subcommand == "predict":
            self.lock.release()
        if folder and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()

    def _run_subcommand(self, subcommand: str) -> None:
        super()._run_subcommand(subcommand)
        if subcommand == "predict" and rank() == 0 and not self._settings.trainer.fast_dev_run:
            refuse_failures(self.folder)
        if self._settings.hub is not None and self.sharing is not None and rank() == 0:
            made = self.folder if subcommand == "fit" else Path(self._settings.output)
            upload(made, self._settings.hub, self.sharing)
        if self._settings.trainer.fast_dev_run:
            self._remove_created_folder()
