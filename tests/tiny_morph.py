"""Tiny ViT-MAE networks for the tests: 32 x 32 pixels, patches of 8."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from eomt.models.mae import MaskedAutoencoder
from eomt.models.mae_encoder import MAEEncoder
from eomt.models.morph_detector import MorphDetector
from eomt.models.weights.mae import initialize_mae

SIDE = 32
PATCH = 8
NUM_PATCHES = (SIDE // PATCH) ** 2
SIZES: dict[str, Any] = {"img_size": (SIDE, SIDE), "patch_size": PATCH, "hidden_size": 32, "depth": 2, "num_heads": 2}
DECODER: dict[str, Any] = {"decoder_depth": 1, "decoder_hidden_size": 16, "decoder_num_heads": 2}


def make_mae(**arguments: Any) -> MaskedAutoencoder:
    """A masked autoencoder of 0.04 M random parameters."""
    return MaskedAutoencoder(**({"pretrained": False} | SIZES | DECODER | arguments))


def make_encoder(**arguments: Any) -> MAEEncoder:
    """Its encoder."""
    return MAEEncoder(**({"pretrained": False} | SIZES | arguments))


def make_detector(encoder: MAEEncoder | None = None, **arguments: Any) -> MorphDetector:
    """A detector on it."""
    return MorphDetector(encoder or make_encoder(), **arguments)


def make_image(batch: int = 2, height: int = SIDE, width: int = SIDE) -> Tensor:
    """uint8 images, always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def enlarge_weights(model: nn.Module, seed: int = 0) -> None:
    """Random weights so large that what a network answers varies; positions stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2, generator=generator)


def tiny_model(seed: int = 0) -> ViTMAEForPreTraining:
    """transformers' own model of the same sizes, in evaluation mode."""
    config = ViTMAEConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, norm_pix_loss=True,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).eval()
    initialize_mae(model)
    enlarge_weights(model, seed)
    return model


def write_model(model: nn.Module, folder: Path) -> str:
    """Writes transformers' model as transformers does."""
    model.save_pretrained(folder)  # type: ignore[operator]
    return str(folder)
