"""Vision encoders of Hugging Face as towers: images in, patch tokens out, nothing in them that is never used."""

from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    DINOv3ViTModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionModel,
)

from eomt.errors import UserError
from eomt.models.parts.pixels import PixelNormalization
from eomt.models.weights.colors import CLIP_COLORS, IMAGENET_COLORS, Colors, read_colors
from eomt.models.weights.transformers import (
    Source,
    build_model,
    describe_source,
    find_model,
    load_model,
    read_model_config,
)
from eomt.utils.loaded import forget_loaded, loaded_in, mark_loaded

CLASSES: dict[str, type[PreTrainedModel]] = {
    "dinov2": Dinov2Model,
    "dinov2_with_registers": Dinov2WithRegistersModel,
    "dinov3_vit": DINOv3ViTModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
# models with a text part, of which the vision part is taken
WHOLE = frozenset({"clip", "siglip"})
# positions of these are resampled only if asked to
ASKED_TO_RESAMPLE = frozenset({"clip_vision_model", "siglip_vision_model"})
# where the blocks are; elsewhere at encoder.layer
BLOCKS = {"dinov3_vit": "model.layer", "clip_vision_model": "encoder.layers", "siglip_vision_model": "encoder.layers"}
# what patch tokens do not depend on: masking, pooling
UNUSED = ("embeddings.mask_token", "post_layernorm.", "head.")
# mean and deviation that a family was trained with; elsewhere ImageNet's
COLORS: dict[str, tuple[Colors, Colors]] = {
    "clip_vision_model": CLIP_COLORS,
    "siglip_vision_model": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class VisionTower(nn.Module):
    """A vision encoder that answers with patch tokens.

    Args:
        model: One of `CLASSES`, without what patch tokens do not depend on.
        img_size: Height and width in pixels of the images it is made for; others are taken too.
        mean: Of the colors, 0 to 1.
        std: Their deviation.

    Raises:
        UserError: For an image size that is no multiple of the patch.
    """

    def __init__(self, model: PreTrainedModel, img_size: tuple[int, int], mean: Colors, std: Colors) -> None:
        super().__init__()
        self.model = model
        self.family: str = model.config.model_type
        self.img_size = (int(img_size[0]), int(img_size[1]))
        self._grid("img_size", *self.img_size)
        self.normalize = PixelNormalization(mean, std)

    @property
    def embed_dim(self) -> int:
        """Width of the tokens."""
        return self.model.config.hidden_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.model.config.patch_size

    @property
    def blocks(self) -> nn.ModuleList:
        """Blocks of the encoder."""
        # through attributes, as the model may be wrapped
        return attrgetter(BLOCKS.get(self.family, "encoder.layer"))(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """Return patch tokens after the last norm of the model, without those that stand before them.

        Args:
            images: RGB, uint8 (0 to 255) or floating point (0 to 1), (I, 3, H, W), H and W multiples of the patch.

        Returns:
            (I, N, D), row by row.

        Raises:
            UserError: For another size.
        """
        height, width = self._grid("images", *images.shape[-2:])
        arguments = {"interpolate_pos_encoding": True} if self.family in ASKED_TO_RESAMPLE else {}
        return self.model(self.normalize(images), **arguments).last_hidden_state[:, -height * width :]

    def depth_of(self, parameter: str) -> int:
        """Return the layer of a parameter of `model`: 0 embeddings, i + 1 block i, the last for the norm after it."""
        prefix = BLOCKS.get(self.family, "encoder.layer") + "."
        if parameter.startswith(prefix):
            return int(parameter.removeprefix(prefix).split(".")[0]) + 1
        after = parameter.startswith(("layernorm.", "norm.", "post_layernorm."))
        return len(self.blocks) if after else 0

    def _grid(self, field: str, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of patches of an image."""
        patch = self.patch_size
        if min(height, width) < patch or height % patch or width % patch:
            down = [max(patch, side // patch * patch) for side in (height, width)]
            raise UserError(
                f"{field}: {height} x {width} pixels; both must be multiples of the patch size {patch}; {down} would do"
            )
        return height // patch, width // patch


def make_vision_tower(
    source: Source, pretrained: bool, img_size: tuple[int, int], colors: tuple[Colors, Colors] | None = None
) -> VisionTower:
    """Return a tower from a repository on the hub, a folder (also of a whole CLIP or SigLIP), or a configuration.

    Args:
        source: The repository, folder or configuration.
        pretrained: Read the weights too; a configuration has none and stays random.
        img_size: Height and width in pixels.
        colors: Mean and deviation; None takes those of the preprocessor_config.json beside the weights, else the
            family's.

    Raises:
        UserError: For a model that is none of `CLASSES`, that cannot be read, or sizes that cannot be.
    """
    config = _vision_config(source)
    model_class = CLASSES[config.model_type]
    if pretrained and isinstance(source, str):
        model = load_model(model_class, source, config, "vision_model", UNUSED)
    else:
        model = build_model(model_class, config, "vision_model")
    _remove_unused(model)
    mean, std = colors or _colors(source, config.model_type)
    return VisionTower(model, img_size, mean, std)


def _vision_config(source: Source) -> PreTrainedConfig:
    """Return the configuration of the vision model, checked."""
    config: Any = read_model_config(source, "vision_model")
    if config.model_type in WHOLE:
        config = config.vision_config
    if config.model_type not in CLASSES:
        raise UserError(
            f"vision_model: {describe_source(source)}: model_type {config.model_type!r}; must be one of "
            f"{', '.join(CLASSES)}, or a whole {' or '.join(sorted(WHOLE))}"
        )
    for name, size in (("patch_size", config.patch_size), ("image_size", config.image_size)):
        if not isinstance(size, int):
            raise UserError(f"vision_model: {name} {size!r}; must be one number")
    if config.hidden_size % config.num_attention_heads:
        heads = config.num_attention_heads
        raise UserError(f"vision_model: hidden_size {config.hidden_size}; must be a multiple of the {heads} heads")
    if config.model_type == "siglip_vision_model":
        config.vision_use_head = False
    return config


def _remove_unused(model: PreTrainedModel) -> None:
    """Take out what gets no gradient from patch tokens, and would be trained in vain."""
    embeddings = model.get_submodule("embeddings")
    if "mask_token" in dict(embeddings.named_parameters(recurse=False)):
        embeddings.register_parameter("mask_token", None)
    if isinstance(model, CLIPVisionModel):
        model.set_submodule("post_layernorm", nn.Identity())
    if loaded := loaded_in(model):
        forget_loaded(model)
        mark_loaded(model, loaded & set(model.state_dict()))


def _colors(source: Source, family: str) -> tuple[Colors, Colors]:
    """Return mean and deviation beside the weights, else those of the family."""
    default = COLORS.get(family, IMAGENET_COLORS)
    return read_colors(find_model(source, "vision_model"), default) if isinstance(source, str) else default
