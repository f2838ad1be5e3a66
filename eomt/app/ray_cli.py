"""The command line in a process of a Ray cluster."""

from typing import Any

from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

from callbacks import LoRACheckpoint
from eomt.app.ray_check import SettingsForRay


class RayCLI(SettingsForRay):
    """The command line with Ray's processes in place of Lightning's; the run saves the configuration as it is."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build the trainer for the processes that Ray has started."""
        given = self._get(self.config_init, "trainer")["plugins"] or []
        plugins = [*(given if isinstance(given, list) else [given]), RayLightningEnvironment()]
        trainer = super().instantiate_trainer(strategy=RayDDPStrategy(), plugins=plugins, **kwargs)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LoRACheckpoint):
                # what is begun anew goes on as if nobody had died
                callback.saves_alone = False
        return prepare_trainer(trainer)
