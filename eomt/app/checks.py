"""Checks of a command's settings, before anything is built."""

from inspect import Parameter
from pathlib import Path
from typing import Any, get_args

from jsonargparse import Namespace

from eomt.app.arguments import refuse_adapters
from eomt.app.checkpoint_files import step_of
from eomt.app.config import named_paths, network_class_of, quantization_of
from eomt.app.reading import class_of
from eomt.app.runs import Checkpoint
from eomt.app.sharded import is_sharded_strategy
from eomt.errors import UserError, shortened
from eomt.export.options import ExportOptions, check_export_output
from eomt.models.network import Network
from eomt.utils.paths import constructor_parameters
from eomt.verification.merging import ORIGINAL_SUFFIX, check_output

# commands that neither train nor measure: they need no run folder, no callbacks and no data
COMMANDS_WITHOUT_RUN = ("inspect", "merge", "export", "demo", "sweep")
# of callbacks, Lightning's own among them, which take any number
NOT_NEGATIVE = ("patience", "min_delta", "refresh_rate")
# precisions that round the weights, and what would do
HALF_WEIGHTS = {"bf16-true": "bf16-mixed", "16-true": "16-mixed"}
# of a run; file systems take 255 bytes
LONGEST_NAME = 200


def check_settings(config: Namespace, command: str | None, checkpoint: Checkpoint | None, given: list[str]) -> None:
    """Check that the settings of a command fit together.

    Args:
        config: Settings of the command.
        command: Its name; None where only the parts are built.
        checkpoint: What `--ckpt_path` names, if anything.
        given: Arguments of the command.

    Raises:
        UserError: If they do not.
    """
    for part in ("model", "data"):
        _check_values(config.get(part), part)
    _check_values(config.trainer.callbacks, "trainer.callbacks")
    if config.data is None and command not in COMMANDS_WITHOUT_RUN:
        raise UserError(f"data: null, but {command} needs data; give --data and --data.path")
    if command in ("fit", *COMMANDS_WITHOUT_RUN) and config.trainer.precision in HALF_WEIGHTS:
        raise UserError(
            f"trainer.precision: {config.trainer.precision}; {command} needs weights in 32 bits, or small steps "
            f"would round to nothing and files differ from their base; give {HALF_WEIGHTS[config.trainer.precision]}"
        )
    if is_sharded_strategy(config.trainer.strategy) and (kind := quantization_of(config)):
        raise UserError(f"trainer.strategy: sharded, but lora_config.quantize is {kind}; give ddp, or set it to null")
    if checkpoint and checkpoint.kind == "merged":
        refuse_adapters(given)
    if command == "demo" and checkpoint is None:
        raise UserError("ckpt_path: null; give the weights to show: a .ckpt file, an adapter folder, latest or best")
    if command == "sweep":
        _check_sweep(config, checkpoint)
    elif command == "merge":
        _check_merge(config, checkpoint)
    elif command == "export":
        _check_export(config, checkpoint)
    if checkpoint and checkpoint.kind == "ckpt":
        # reads the file, so that a damaged one is refused here
        step_of(checkpoint.path, resumes=command == "fit")
    elif checkpoint and command == "fit":
        raise UserError(
            f"ckpt_path: {checkpoint.path} holds weights but no optimizer to resume; "
            "give the .ckpt beside it, or start from merged weights with --model.network.pretrained"
        )
    if checkpoint and command == "fit" and config.trainer.overfit_batches:
        raise UserError(
            f"trainer.overfit_batches: {config.trainer.overfit_batches} with ckpt_path: the batches of such a trial "
            "are not those of a resumed run; leave one of them out"
        )
    if config.trainer.num_sanity_val_steps not in (0, -1):
        raise UserError(
            f"trainer.num_sanity_val_steps: {config.trainer.num_sanity_val_steps}; "
            "must be -1 (step 0 is validated in full) or 0 (not at all)"
        )
    every, batches = config.trainer.val_check_interval, config.trainer.accumulate_grad_batches
    if isinstance(every, int) and config.trainer.check_val_every_n_epoch is None and every % batches:
        raise UserError(
            f"trainer.val_check_interval: {every} batches end inside a step of {batches} "
            f"(accumulate_grad_batches); {every * batches} would do"
        )
    _check_run_name(config, command, checkpoint)


def _check_run_name(config: Namespace, command: str | None, checkpoint: Checkpoint | None) -> None:
    name = config.run_name
    if name is not None and (Path(name).name != name or len(name) > LONGEST_NAME):
        raise UserError(
            f"run_name: {shortened(name)!r} is no plain name of at most {LONGEST_NAME} letters; "
            "give the folder above it as trainer.default_root_dir"
        )
    if name is None or checkpoint is None or command == "fit":
        # a training branches off into a folder of its own
        return
    run = checkpoint.run
    if run is None and command in COMMANDS_WITHOUT_RUN:
        run = checkpoint.path.absolute().parent
    # else weights that lie in no run are measured in a new one
    if run is not None and (Path(config.trainer.default_root_dir) / name).resolve() != run.resolve():
        raise UserError(f"run_name: {name!r}, but the checkpoint belongs to {run}; leave run_name out")


def _check_values(component: Any, address: str) -> None:
    """Check that no constructor argument is null that needs a value, nor a weight negative, here and inside.

    Raises:
        UserError: If one is.
    """
    if isinstance(component, list):
        for index, inner in enumerate(component):
            _check_values(inner, f"{address}.{index}")
    if not isinstance(component, dict | Namespace) or not component.get("class_path"):
        return
    parameters = constructor_parameters(class_of(component))
    for name, value in dict(component.get("init_args") or {}).items():
        parameter = parameters.get(name)
        if value is None and parameter is not None and parameter.default is not None and not _may_be_null(parameter):
            raise UserError(f"{address}.{name}: null, but it needs a value; leave it out for its default")
        is_amount = name.endswith("_weight") or name in NOT_NEGATIVE
        if is_amount and isinstance(value, int | float) and not value >= 0:
            raise UserError(f"{address}.{name}: {value}; must be at least 0")
        _check_values(value, f"{address}.{name}")


def _may_be_null(parameter: Parameter) -> bool:
    annotation = parameter.annotation
    return annotation in (Parameter.empty, Any, None, type(None)) or type(None) in get_args(annotation)


def check_trainer(config: Namespace) -> None:
    """Check values that Lightning divides by, or takes without a word.

    Raises:
        UserError: If one cannot be.
    """
    trainer = config.trainer
    for name, allowed, words in (
        ("log_every_n_steps", lambda value: value >= 1, "at least 1"),
        ("val_check_interval", lambda value: value > 0, "above 0: steps, or a share of an epoch"),
        ("check_val_every_n_epoch", lambda value: value >= 1, "at least 1, or null to count steps alone"),
        ("accumulate_grad_batches", lambda value: value >= 1, "at least 1"),
        ("gradient_clip_val", lambda value: value >= 0, "at least 0"),
        ("max_steps", lambda value: value == -1 or value >= 1, "at least 1, or -1 for no limit"),
        ("max_epochs", lambda value: value == -1 or value >= 1, "at least 1, or -1 for no limit"),
        ("min_steps", lambda value: value >= 0, "at least 0"),
        ("min_epochs", lambda value: value >= 0, "at least 0"),
        ("limit_train_batches", lambda value: value > 0, "above 0"),
    ):
        value = trainer.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and not allowed(value):
            raise UserError(f"trainer.{name}: {value}; must be {words}")
    for unit in ("steps", "epochs"):
        least, most = trainer.get(f"min_{unit}"), trainer.get(f"max_{unit}")
        if least is not None and most is not None and 0 <= most < least:
            raise UserError(f"trainer.min_{unit}: {least}, but max_{unit} is {most}; raise it, or lower min_{unit}")
    if trainer.default_root_dir is None:
        raise UserError("trainer.default_root_dir: null; give the folder of all runs")
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < 2**32:
        raise UserError(f"seed_everything: {seed}; must be from 0 to {2**32 - 1}")
    profiler = trainer.profiler
    named = profiler.get("class_path") if isinstance(profiler, Namespace) else profiler
    if str(named).rpartition(".")[2] in ("pytorch", "PyTorchProfiler"):
        raise UserError(
            "trainer.profiler: pytorch hooks into every layer, which cannot be copied to merge; give simple"
        )


def _check_sweep(config: Namespace, checkpoint: Checkpoint | None) -> None:
    if config.data is None:
        raise UserError("data: null, but sweep needs data; give --data and --data.path")
    if checkpoint is not None:
        raise UserError("ckpt_path: a sweep trains from the base; leave it out, or name weights in model.network")
    if config.trainer.fast_dev_run or config.trainer.overfit_batches:
        raise UserError("trainer.fast_dev_run, overfit_batches: such trials tell nothing of a way; leave them out")
    if config.trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches: 0, so that nothing tells which way is best; leave it out")


def _check_merge(config: Namespace, checkpoint: Checkpoint | None) -> None:
    if checkpoint is None:
        raise UserError("ckpt_path: null; give the weights to merge: a .ckpt file, an adapter folder, latest or best")
    if checkpoint.kind == "merged":
        raise UserError(f"ckpt_path: {checkpoint.path} is merged already; give a .ckpt file or an adapter folder")
    network = network_class_of(config)
    if Path(config.output or "").suffix == ORIGINAL_SUFFIX and network.write_original is Network.write_original:
        raise UserError(f"output: {config.output}: {network.__name__} is not written as a .pt; give a folder")
    check_output(config.output, network.files)
    _check_not_needed(config)


def _check_export(config: Namespace, checkpoint: Checkpoint | None) -> None:
    options = ExportOptions(
        config.format, config.dtype, config.opset, tuple(config.anomaly or ()), config.limit, tuple(config.check or ())
    )
    if options.format == "safetensors":
        _check_merge(config, checkpoint)
        return
    if checkpoint is None:
        raise UserError(
            "ckpt_path: null; give the weights to export: a .ckpt file, an adapter or merged folder, latest or best"
        )
    check_export_output(config.output)
    _check_not_needed(config)


def _check_not_needed(config: Namespace) -> None:
    """Check that no file that a run needs lies in the folder that is replaced.

    Raises:
        UserError: If one does.
    """
    output = Path(config.output).resolve()
    for address, path in named_paths(config):
        if output.exists() and output in (path.resolve(), *path.resolve().parents):
            raise UserError(
                f"output: {shortened(str(output), 80)} holds {address}, without which the run opens no more; "
                "choose another folder"
            )
