"""What the audit asks of a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from eomt.models.network import Network
from eomt.verification.audit import audit
from eomt.verification.findings import AuditReport


class AuditedTask(LightningModule, ABC):
    """A task whose network is audited on a batch of its training."""

    network: Network

    @abstractmethod
    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """Return the losses of a training batch, and the network's output.

        Nothing is logged here, since the audit calls this method outside of training.

        Returns:
            The total under "loss", its parts under their names; and the output, for `training_metrics`.
        """

    @abstractmethod
    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return the output of a network as one tensor without thresholds, for comparison with a merged copy.

        Args:
            network: The network of this task, or a copy of it.
            batch: A batch on its device.
        """

    def is_supervised(self, batch: dict[str, Any]) -> bool:
        """Return whether a training batch has labels to learn from; the audit takes the first that has."""
        return True

    def audit_losses(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return losses that depend on every trained parameter; `losses` may leave some out at random."""
        return self.losses(batch)[0]

    def audit_answers(self, network: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return what the audit at the end of a fit looks at beside the output.

        Args:
            network: The network of this task.
            batch: A training batch.

        Returns:
            `gate`, logits of objects (B, ...), at least one of which should be above 0; `classes`, logits with the
            classes last, which should differ between classes and between images. Both may be left out.
        """
        return {}

    def audit(
        self,
        batch: dict[str, Any],
        optimizers: Iterable[Optimizer] | None = None,
        allow_random_base: bool = True,
        stage: str | None = None,
        schedulers: Iterable[Any] | None = None,
    ) -> AuditReport:
        """Check on a training batch that every adapter acts and learns; see `eomt.verification.audit`.

        Args:
            batch: A training batch on the device of the task.
            optimizers: Optimizers of the training; None skips the check that they hold every trained parameter.
            allow_random_base: Accept frozen weights that are random.
            stage: "end" after the training, where answers that have collapsed are a fault.
            schedulers: Of the optimizers' learning rates.

        Returns:
            The faults that were found, if any.
        """

        def loss(_: nn.Module, given: dict[str, Any]) -> Tensor:
            return self.audit_losses(given)["loss"]

        def step(optimizer: Optimizer) -> None:
            if self._trainer is not None:
                clipping = self.trainer.gradient_clip_val, self.trainer.gradient_clip_algorithm
                self.configure_gradient_clipping(optimizer, *clipping)
            optimizer.step()

        return audit(
            self.network,
            batch,
            loss,
            self.outputs,
            optimizers,
            allow_random_base,
            step,
            stage=stage,
            answers=self.audit_answers if stage == "end" else None,
            schedulers=schedulers,
        )
