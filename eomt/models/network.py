"""The contract that every network keeps: what it tells the rest of the package."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import save_file
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adaptable import Adaptable
from eomt.utils.hub import WEIGHT_FILES

# constructor arguments as they stand in a configuration, before anything is built
Arguments = MutableMapping[str, Any]


class Network(Adaptable):
    """A network that takes images and can be adapted, saved, merged and opened again.

    A network of your own derives from it and says what differs: `base` and `img_size` always, `inner_models` where
    timm's or transformers' models are inside, `depth_of` where full fine-tuning decays learning rates by layer. What
    is here by default holds for any torch module.

    Attributes:
        img_size: Height and width in pixels of the images that it is made for.
        class_names: Names of the classes in the order of its outputs, for the files that are written; None if they are
            not known.
        checkpointing: Whether activations are computed again in the backward pass; None where that cannot be switched
            once the network is built.
    """

    # names in the folder that `write` fills
    files: ClassVar[frozenset[str]] = frozenset({WEIGHT_FILES[0]})

    img_size: tuple[int, int]
    class_names: list[str] | None = None
    checkpointing: bool | None = None

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def base(self) -> str:
        """Where its weights come from, for people: a repository, a path, or that they are random."""
        return f"{type(self).__name__} (random)"

    def depth_of(self, parameter: str) -> int | None:
        """Return the layer of a parameter for layer-wise learning-rate decay.

        Args:
            parameter: Its name.

        Returns:
            0 for embeddings, i + 1 for block i; None outside of the backbone.
        """
        return None

    def compile_blocks(self) -> None:
        """Compile the network in place, so that no `_orig_mod.` enters the names of its parameters.

        Blocks compiled one by one share a graph, which takes seconds and not minutes.
        """
        self.compile()

    # -- files -------------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Write the plain network into a folder that exists, so that it opens without LoRA.

        By default its own state dict as safetensors; a network of another library writes that library's layout.

        Raises:
            UserError: If it cannot be written, as with adapters inside.
        """
        save_file(stored_once(self), folder / WEIGHT_FILES[0], {"format": "pt"})

    def write_original(self, path: Path) -> None:
        """Write a `.pt` file with the names of the network's authors.

        Raises:
            UserError: If there is no such form, or the file exists.
        """
        raise UserError(f"output: {path}: {type(self).__name__} is not written as a .pt; give a folder")

    # -- its configuration, before it is built -----------------------------------------------------------------------

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Return whether `pretrained: folder` opens a folder that `write` has filled.

        Else its weights are filled into a network that the configuration beside them describes.
        """
        return False

    @classmethod
    def complete(cls, arguments: Arguments) -> None:
        """Fill in constructor arguments that follow from the weights which they name."""

    @classmethod
    def img_size_of(cls, arguments: Arguments) -> Any:
        """Return the configured image size, the network's own or that of its encoder; None if there is none."""
        encoder = (arguments.get("encoder") or {}).get("init_args") or {}
        return encoder.get("img_size", arguments.get("img_size"))

    @classmethod
    def classes_of(cls, arguments: Arguments) -> int | None:
        """Return the number of classes that the weights in `pretrained` have, None where nothing tells."""
        return None

    @classmethod
    def without_weights(cls, arguments: Arguments) -> None:
        """Let nothing be fetched, here and in every module inside, for a file that holds every weight."""
        for name, value in list(arguments.items()):
            if name == "pretrained":
                arguments[name] = False
            elif isinstance(value, MutableMapping):
                Network.without_weights(value)


def stored_once(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU without second names.

    safetensors takes each storage once, and reading it fills all tensors that share it.
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value.detach().cpu().contiguous()
    return state
