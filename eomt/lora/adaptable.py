"""What LoRA asks of a network, and what stands for a module that says nothing."""

from torch import nn


class Adaptable(nn.Module):
    """A module that says which of its parts another library knows, which are new, and which are never trained.

    `eomt.models.network.Network` is one. Any other torch module is adapted as one without such parts.
    """

    @property
    def inner_models(self) -> tuple[str, ...]:
        """Paths of the timm or Hugging Face models inside: their adapters are saved under the names they have there."""
        return ()

    @property
    def new_modules(self) -> tuple[str, ...]:
        """Names of modules that no file fills, trained in full wherever adapters are."""
        return ()

    @property
    def frozen_modules(self) -> tuple[str, ...]:
        """Names of modules that are trained only where `trainable_modules` names them."""
        return ()


_WITHOUT_PARTS = Adaptable()


def as_adaptable(model: nn.Module) -> Adaptable:
    """Return what `model` says of its parts: itself or, for any other torch module, one that names none."""
    return model if isinstance(model, Adaptable) else _WITHOUT_PARTS
