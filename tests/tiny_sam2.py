"""A tiny SAM 2 for the tests."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam2Config, Sam2Model

from eomt.models import SAM2
from eomt.models.weights.sam2.config import Size
from eomt.models.weights.sam2.load import original_shapes
from eomt.models.weights.sam2.names import ONLY_IN_2_1, POSITIONS_TWICE

IMAGE_SIZE = 64
WIDTH = 32  # of embeddings and decoder

_folder = tempfile.TemporaryDirectory(prefix="tiny_sam2_")


def tiny_config() -> Sam2Config:
    """All that the large size has, smaller: four stages, windows, a global block, shortcuts that change the width."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 2, 4, 2],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [3, 3],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": WIDTH,
    }
    decoder = {"hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": WIDTH}
    prompts = {"hidden_size": WIDTH, "image_size": IMAGE_SIZE}
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def tiny_model(seed: int = 0) -> Sam2Model:
    """transformers' own model, in evaluation mode; its weights are large enough for its answers to vary."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Sam2Model(tiny_config()).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, mean=1, std=0.1)
    model.get_buffer(POSITIONS_TWICE[0]).copy_(model.get_buffer(POSITIONS_TWICE[1]))
    return model


@functools.cache
def tiny_folder() -> str:
    """A folder in Hugging Face layout with `tiny_model()`; it lasts as long as the process."""
    folder = Path(_folder.name) / "sam2"
    tiny_model().save_pretrained(folder)
    return str(folder)


def make_sam2(img_size: int | tuple[int, int] = IMAGE_SIZE, **arguments: Any) -> SAM2:
    """A SAM 2 of 0.16 M parameters on 64 x 64 pixels, with the weights of `tiny_model()`, read from a folder."""
    return SAM2(**({"pretrained": tiny_folder(), "img_size": img_size} | arguments))


def make_image(batch: int = 2, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> Tensor:
    """uint8 images, always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def make_points(batch: int = 2, prompts: int = 3, points: int = 2) -> tuple[Tensor, Tensor]:
    """Points (B, N, P, 2) on a 64 x 64 image and their labels (B, N, P), always the same."""
    generator = torch.Generator().manual_seed(2)
    places = torch.rand(batch, prompts, points, 2, generator=generator) * (IMAGE_SIZE - 1)
    return places, torch.randint(0, 2, (batch, prompts, points), generator=generator)


def make_boxes(batch: int = 2, prompts: int = 3) -> Tensor:
    """Boxes (B, N, 4) on a 64 x 64 image, always the same."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(batch, prompts, 2, 2, generator=generator) * (IMAGE_SIZE - 1)
    return torch.cat((corners.amin(2), corners.amax(2)), dim=-1)


def original_state(size: Size, version: str = "2.1") -> dict[str, Tensor]:
    """A whole checkpoint, every tensor full of a number of its own; in a file it takes a few bytes a tensor."""
    image, memory = original_shapes(size)
    shapes = {name: shape for name, shape in (image | memory).items() if version == "2.1" or name not in ONLY_IN_2_1}
    return {name: torch.tensor(float(index)).expand(shape) for index, (name, shape) in enumerate(shapes.items())}
