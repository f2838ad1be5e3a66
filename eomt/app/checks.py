"""Checks of a command's settings, before anything is built."""

from pathlib import Path

from jsonargparse import Namespace

from eomt.app.config import network_class_of
from eomt.app.runs import Checkpoint, step_of
from eomt.errors import UserError
from eomt.verification.merging import check_output

# commands that neither train nor measure: they need no run folder, no callbacks and no data
COMMANDS_WITHOUT_RUN = ("inspect", "merge")
# precisions that round the weights, and what would do
HALF_WEIGHTS = {"bf16-true": "bf16-mixed", "16-true": "16-mixed"}


def check_settings(config: Namespace, command: str | None, checkpoint: Checkpoint | None) -> None:
    """Check that the settings of a command fit together.

    Args:
        config: Settings of the command.
        command: Its name; None where only the parts are built.
        checkpoint: What `--ckpt_path` names, if anything.

    Raises:
        UserError: If they do not.
    """
    if config.data is None and command not in COMMANDS_WITHOUT_RUN:
        raise UserError(f"data: null, but {command} needs data; give --data and --data.path")
    if command in ("fit", "inspect", "merge") and config.trainer.precision in HALF_WEIGHTS:
        raise UserError(
            f"trainer.precision: {config.trainer.precision}; {command} needs weights in 32 bits, or small steps "
            f"would round to nothing and files differ from their base; give {HALF_WEIGHTS[config.trainer.precision]}"
        )
    if command == "merge":
        _check_merge(config, checkpoint)
    if checkpoint and checkpoint.kind == "ckpt":
        # reads the file, so that a damaged one is refused here
        step_of(checkpoint.path)
    elif checkpoint and command == "fit":
        raise UserError(
            f"ckpt_path: {checkpoint.path} holds weights but no optimizer to resume; "
            "give the .ckpt beside it, or start from merged weights with --model.network.pretrained"
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
    if config.run_name is not None and Path(config.run_name).name != config.run_name:
        raise UserError(
            f"run_name: {config.run_name!r} is no plain name; give the folder above it as trainer.default_root_dir"
        )


def _check_merge(config: Namespace, checkpoint: Checkpoint | None) -> None:
    if checkpoint is None:
        raise UserError("ckpt_path: null; give the weights to merge: a .ckpt file, an adapter folder, latest or best")
    if checkpoint.kind == "merged":
        raise UserError(f"ckpt_path: {checkpoint.path} is merged already; give a .ckpt file or an adapter folder")
    check_output(config.output, network_class_of(config).files)
