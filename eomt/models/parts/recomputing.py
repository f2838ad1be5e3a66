"""Networks around models of transformers, whose activations can be computed again in the backward pass."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedModel

from eomt.models.network import Network


class RecomputingNetwork(Network):
    """A network whose `checkpointing` switches that of the models of transformers inside.

    Attributes:
        model: The model inside; a network with several names them in `recomputing_models`.
    """

    model: Any

    @property
    def recomputing_models(self) -> tuple[PreTrainedModel, ...]:
        """The models whose activations are recomputed."""
        return (self.model,)

    @property
    def checkpointing(self) -> bool | None:
        """Whether activations are recomputed; None where a model inside cannot."""
        models = self.recomputing_models
        if not all(model.supports_gradient_checkpointing for model in models):
            return None
        with _old_names():
            return all(model.is_gradient_checkpointing for model in models)

    @checkpointing.setter
    def checkpointing(self, checkpointing: bool | None) -> None:
        with _old_names():
            for model in self.recomputing_models:
                if checkpointing:
                    model.gradient_checkpointing_enable({"use_reentrant": False})
                else:
                    model.gradient_checkpointing_disable()


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """Let names of transformers be used within whose new ones are not in all versions of transformers 5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
