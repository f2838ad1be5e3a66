"""What a network tells LoRA about its parts, and the default for a module that says nothing."""

from torch import nn


class Adaptable(nn.Module):
    """A module that says which of its parts come from another library, which are new, and which stay frozen.

    `eomt.models.network.Network` is one. Any other torch module is adapted as if it had no such parts.
    """

    @property
    def inner_models(self) -> tuple[str, ...]:
        """Paths of the timm or Hugging Face models inside; adapters in them are saved under those models' own names."""
        return ()

    @property
    def new_modules(self) -> tuple[str, ...]:
        """Names of modules that no weights file fills; they are trained in full beside the adapters."""
        return ()

    @property
    def frozen_modules(self) -> tuple[str, ...]:
        """Names of modules that are trained only where `trainable_modules` names them."""
        return ()

    @property
    def keeps_statistics(self) -> tuple[str, ...]:
        """Paths of modules whose frozen batch normalization uses its stored statistics in training, too."""
        return ()


_WITHOUT_PARTS = Adaptable()


def as_adaptable(model: nn.Module) -> Adaptable:
    """Return `model` itself if it is Adaptable; for any other torch module, an Adaptable that names no parts."""
    return model if isinstance(model, Adaptable) else _WITHOUT_PARTS
