"""The command line in a process of a Ray cluster."""

from typing import Any

from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer

from callbacks import LoRACheckpoint
from eomt.app.command_line import CLI
from eomt.errors import UserError

# what the cluster sets
OURS = {"strategy": ("auto", "ddp"), "devices": ("auto",), "num_nodes": (1,)}


class RayCLI(CLI):
    """The command line with Ray's processes in place of Lightning's; the run saves the configuration as it is."""

    def before_instantiate_classes(self) -> None:
        """Complete and check the configuration.

        Raises:
            UserError: If it asks for processes that Ray does not start.
        """
        for name, allowed in OURS.items():
            if (value := self._settings.trainer.get(name)) not in allowed:
                raise UserError(f"trainer.{name}: {value}, but Ray starts the processes; leave it out")
        super().before_instantiate_classes()

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
