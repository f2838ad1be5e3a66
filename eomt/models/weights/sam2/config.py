"""The four sizes of SAM 2 as configurations of transformers, and the image size that a model is set to."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor

from eomt.errors import UserError
from eomt.models.weights.files import read_config_fields
from eomt.utils.hub import CONFIG_FILE, READING_ERRORS

Size = Literal["tiny", "small", "base_plus", "large"]
SIZES: tuple[Size, ...] = get_args(Size)

MODEL_TYPES = ("sam2", "sam2_video")


class Hiera(NamedTuple):
    """What tells the image encoders apart (Ryali et al., arXiv:2306.00989; Ravi et al., arXiv:2408.00714)."""

    width: int  # of the first stage; doubled at each of the next three, like the number of heads
    heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, int, int]
    windows: tuple[int, int, int, int]
    position_grid: int


HIERA: dict[Size, Hiera] = {
    "tiny": Hiera(96, 1, (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7), 7),
    "small": Hiera(96, 1, (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7), 7),
    "base_plus": Hiera(112, 2, (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), 14),
    "large": Hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8), 7),
}


def is_size(text: str) -> TypeGuard[Size]:
    """Return whether a text is one of the released sizes."""
    return text in SIZES


def sam2_config(size: Size) -> Sam2Config:
    """Return the configuration of a released size; SAM 2 and 2.1 do not differ in what images need."""
    hiera = HIERA[size]
    widths = [hiera.width * 2**stage for stage in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": hiera.width,
        "num_attention_heads": hiera.heads,
        "blocks_per_stage": list(hiera.blocks),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [hiera.heads * 2**stage for stage in range(4)],
        "window_size_per_stage": list(hiera.windows),
        "global_attention_blocks": list(hiera.global_blocks),
        "window_positional_embedding_background_size": [hiera.position_grid] * 2,
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
    }
    return Sam2Config(vision_config=vision)


def read_sam2_config(folder: Path) -> Sam2Config:
    """Return the configuration in a folder of Hugging Face layout, of a Sam2Model or the images of a Sam2VideoModel.

    A size that is not square is moved to where transformers takes one: see `image_size_of`.

    Raises:
        UserError: If there is none, it cannot be read, or it is of another family.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: holds no {CONFIG_FILE}; give a folder of Hugging Face layout, or an original .pt")
    fields = read_config_fields(file, MODEL_TYPES)
    parts: dict[str, Any] = {
        name: fields.get(name) for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    try:
        config = Sam2Config(**parts)
        prompts: Any = config.prompt_encoder_config
        height, width = as_pair(prompts.image_size)
        vision: Any = config.vision_config
        vision.backbone_config.image_size, prompts.image_size = [height, width], width
        return config
    except READING_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: is no configuration of SAM 2 ({reason}); copy it again") from error


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of a size, which may be one side of a square."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def image_size_of(config: Sam2Config) -> tuple[int, int]:
    """Return height and width of the images that a model of `config` was trained on."""
    vision: Any = config.vision_config
    return as_pair(vision.backbone_config.image_size)


def check_image_size(config: Sam2Config, img_size: tuple[int, int]) -> None:
    """Check that windows and strides of the encoder fit (H, W).

    Raises:
        UserError: Naming a size that would do.
    """
    vision: Any = config.vision_config
    backbone = vision.backbone_config
    # the position window is tiled over the first stage; each pooling halves what is left
    step = backbone.patch_stride[0] * math.lcm(backbone.window_size_per_stage[0], 2**backbone.num_query_pool_stages)
    if any(side < step or side % step for side in img_size):
        nearest = [max(step, round(side / step) * step) for side in img_size]
        raise UserError(f"img_size: {list(img_size)}, both must be multiples of {step}; {nearest} would do")


def set_image_size(model: Sam2Model, img_size: tuple[int, int]) -> None:
    """Set `model` and its configuration to images of (H, W)."""
    height, width = img_size
    vision: Any = model.config.vision_config
    prompts: Any = model.config.prompt_encoder_config
    encoder, patch = model.prompt_encoder, prompts.patch_size
    levels = [[4 * height // patch // 2**level, 4 * width // patch // 2**level] for level in range(3)]
    model.backbone_feature_sizes = levels
    encoder.image_embedding_size = (height // patch, width // patch)
    encoder.mask_input_size = (4 * height // patch, 4 * width // patch)
    # coordinates are divided by it, both by the same: SAM2.decode scales y where the image is not square
    encoder.input_image_size = width
    prompts.image_size = width
    vision.backbone_feature_sizes = levels
    vision.backbone_config.image_size = [height, width]


def use_single_mask(model: Sam2Model) -> None:
    """Let one mask be the first one, in evaluation as in training; also in the configuration.

    By default transformers takes one of the three others in evaluation wherever the first one is not stable.
    """
    decoder: Any = model.config.mask_decoder_config
    model.mask_decoder.dynamic_multimask_via_stability = decoder.dynamic_multimask_via_stability = False


def written_config(model: Sam2Model) -> Sam2Config:
    """Return the configuration to be written beside the weights of `model`.

    transformers knows square images only. With another size in the field of its prompt encoder it refuses the folder,
    which it would open otherwise, with other answers.
    """
    config = copy.deepcopy(model.config)
    config.architectures = ["Sam2Model"]
    height, width = image_size_of(config)
    if height != width:
        prompts: Any = config.prompt_encoder_config
        prompts.image_size = [height, width]
    return config


def sam2_processor(img_size: tuple[int, int]) -> Sam2Processor:
    """Return what makes of image files and prompts what a model for square images takes."""
    height, width = img_size
    return Sam2Processor(
        Sam2ImageProcessor(
            size={"height": height, "width": width}, mask_size={"height": height // 4, "width": width // 4}
        )
    )
