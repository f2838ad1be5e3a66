"""The contract that every network keeps: what the rest of the package asks it."""

from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from eomt.errors import UserError
from eomt.lora.adaptable import Adaptable
from eomt.models.frozen_features import FeatureCache, Features, is_frozen, weights_of
from eomt.utils.hub import WEIGHT_FILES
from eomt.utils.images import RGB
from eomt.utils.modes import evaluation_mode

# constructor arguments as a configuration has them, before anything is built
Arguments = MutableMapping[str, Any]


def check_img_size(img_size: int | Sequence[int], field: str = "img_size") -> None:
    """Check an image size: height and width, or the side of a square.

    Raises:
        UserError: It is below 1 pixel.
    """
    sides = [img_size] if isinstance(img_size, int) else list(img_size)
    if min(sides) < 1:
        raise UserError(f"{field}: {sides}; must be at least 1 pixel each way")


class Network(Adaptable):
    """A network that takes images and can be adapted, saved, merged and opened again.

    A network of your own derives from it and overrides what differs: always `base` and `img_size`; `inner_models` where
    it holds models of timm or transformers; `depth_of` where full fine-tuning decays learning rates by layer. The
    defaults here are right for any torch module.

    Attributes:
        files: Names in the folder that `write` fills.
        img_size: Height and width of the input images in pixels.
        in_chans: Number of channels of the input images, the first three red, green and blue.
        class_names: Names of the classes in the order of the outputs, for the files that are written; None if they are
            not known.
        checkpointing: Whether activations are computed again in the backward pass; None where that cannot be switched
            once the network is built.
        remakes_outputs: Whether parts behind the blocks that keep more than these are computed again, too; of no effect
            where there are none.
        feature_cache: Where outputs of frozen parts are kept from one epoch to the next; None keeps none.
    """

    files: ClassVar[frozenset[str]] = frozenset({WEIGHT_FILES[0]})

    img_size: tuple[int, int]
    in_chans: int = RGB
    class_names: list[str] | None = None
    checkpointing: bool | None = None
    remakes_outputs: bool = False
    feature_cache: FeatureCache | None = None

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def base(self) -> str:
        """Origin of the weights in words: a repository, a path, or a note that they are random."""
        return f"{type(self).__name__} (random)"

    def depth_of(self, parameter: str) -> int | None:
        """Return the layer of a parameter for layer-wise learning-rate decay.

        Args:
            parameter: Its name.

        Returns:
            0 for embeddings, i + 1 for block i; None for parameters outside of the backbone.
        """
        return None

    def compile_blocks(self) -> None:
        """Compile the network in place, so that no `_orig_mod.` enters the names of its parameters.

        Networks with equal blocks compile one block at a time: the blocks share a graph, which takes seconds instead of
        minutes.
        """
        self.compile()

    @property
    def loading_notes(self) -> list[str]:
        """How weights were changed while they were loaded, so that they fit; those of the networks inside."""
        return [note for part in self.children() if isinstance(part, Network) for note in part.loading_notes]

    # -- frozen parts ------------------------------------------------------------------------------------------------

    def frozen_features(
        self,
        part: str,
        images: Tensor,
        module: nn.Module,
        below: Sequence[Tensor],
        encode: Callable[[Tensor], Features],
    ) -> Features:
        """Return what a part computes from images: if it is frozen, without a graph and once for each image.

        A frozen part is in evaluation mode even in training: dropout there would only add noise.

        Args:
            part: See `FeatureCache.features`.
            images: Images (B, 3, H, W).
            module: A module that holds the part, for its mode and settings.
            below: Weights and buffers of the part.
            encode: Computes its outputs, each (B, ...).
        """
        if images.requires_grad or not is_frozen(below):
            return encode(images)
        cache, training = self.feature_cache, self.training
        with torch.no_grad(), evaluation_mode(module):
            if cache is None or not cache.is_used(training):
                return encode(images)

            def compute(indices: list[int]) -> list[Features]:
                found = encode(images if len(indices) == len(images) else images[indices])
                return list(zip(*(tensor.unbind() for tensor in found), strict=True))

            rows = cache.features(part, images.cpu().unbind(), module, below, compute, training)
            return tuple(torch.stack(tensors) for tensors in zip(*rows, strict=True))

    def enter(
        self,
        image: Tensor,
        before: list[Tensor],
        blocks: Sequence[nn.Module],
        embed: Callable[[Tensor], Tensor],
        run_block: Callable[[int, Tensor], Tensor],
    ) -> tuple[Tensor, int]:
        """Return the input of block k and k: everything below it is frozen, as `frozen_features` does.

        Args:
            image: Images (B, 3, H, W).
            before: Weights and buffers before the first block.
            blocks: Blocks of this network that may be below.
            embed: Computes the input of the first block.
            run_block: Computes the output of a block from its number and input.
        """
        below, depth = list(before), 0
        while is_frozen(below) and depth < len(blocks) and is_frozen(weights := weights_of(blocks[depth])):
            below += weights
            depth += 1
        if not depth:
            return embed(image), 0

        def encode(images: Tensor) -> Features:
            tokens = embed(images)
            for index in range(depth):
                tokens = run_block(index, tokens)
            return (tokens,)

        (tokens,) = self.frozen_features(f"first {depth} blocks", image, self, below, encode)
        return tokens, depth

    # -- files -------------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Write the plain network into a folder that exists, so that it opens without LoRA.

        The default writes the state dict as safetensors; a network of another library writes that library's layout.

        Raises:
            UserError: If it cannot be written, for example with adapters inside.
        """
        save_file(stored_once(self), folder / WEIGHT_FILES[0], {"format": "pt"})

    def write_original(self, path: Path) -> None:
        """Write a `.pt` file with the tensor names of the network's authors.

        Raises:
            UserError: If the network has no such file format, or the file exists.
        """
        raise UserError(f"output: {path}: {type(self).__name__} is not written as a .pt; give a folder")

    # -- its configuration, before it is built -----------------------------------------------------------------------

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Return whether `pretrained: folder` opens a folder that `write` filled.

        If not, its weights are filled into a network that the configuration beside them describes.
        """
        return False

    @classmethod
    def complete(cls, arguments: Arguments) -> None:
        """Fill in constructor arguments that follow from the weights named in others."""

    @classmethod
    def img_size_of(cls, arguments: Arguments) -> Any:
        """Return the configured image size, that of the encoder or else of the network; None if none is set."""
        encoder = (arguments.get("encoder") or {}).get("init_args") or {}
        return encoder.get("img_size", arguments.get("img_size"))

    @classmethod
    def channels_of(cls, arguments: Arguments) -> Arguments | None:
        """Return the constructor arguments that `in_chans` stands among; None of a network that takes RGB alone."""
        encoder = (arguments.get("encoder") or {}).get("init_args") or {}
        return encoder if "in_chans" in encoder else None

    @classmethod
    def classes_of(cls, arguments: Arguments) -> int | None:
        """Return the number of classes of the weights in `pretrained`; None if it is not known."""
        return None

    @classmethod
    def without_weights(cls, arguments: Arguments) -> None:
        """Switch `pretrained` off here and in every module inside, when a file holds every weight."""
        for name, value in list(arguments.items()):
            if name == "pretrained":
                arguments[name] = False
            elif isinstance(value, MutableMapping):
                Network.without_weights(value)


def stored_once(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict on the CPU with each tensor once, under its first name.

    safetensors stores each tensor once; reading it fills all tensors that share its memory.
    """
    seen: set[int] = set()
    state: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value.detach().cpu().contiguous()
    return state
