"""The callback that saves the configuration of a run."""

from itertools import count
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import MergeOnSave
from eomt.app.checkpoint_files import step_of
from eomt.app.config import standalone_config
from eomt.app.runs import CONFIG
from eomt.utils.files import write_file
from eomt.utils.trainer import callbacks_of, is_trial


class SaveConfig(Callback):
    """A callback that writes the resolved configuration beside the checkpoints.

    MergeOnSave gets the configuration that opens the merged model.

    Args:
        config: The resolved configuration of the command.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give MergeOnSave the configuration that opens the merged model without adapters."""
        for callback in callbacks_of(trainer):
            if isinstance(callback, MergeOnSave):
                callback.config = yaml.safe_dump(standalone_config(self.config), sort_keys=False)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write `config.yaml`; a resume with other settings keeps the earlier file under another name."""
        if not trainer.is_global_zero or is_trial(trainer):
            return
        path = Path(trainer.default_root_dir) / CONFIG
        text = yaml.safe_dump(self.config, sort_keys=False)
        if path.is_file() and path.read_text() != text:
            # the earlier steps were made with these settings, so the file is kept
            earlier = f"config_before_step{step_of(Path(str(trainer.ckpt_path)))}"
            names = (f"{earlier}{'' if number == 1 else f'_{number}'}.yaml" for number in count(1))
            path.rename(next(path.with_name(name) for name in names if not path.with_name(name).exists()))
        write_file(path, lambda beside: beside.write_text(text))
