"""Tiny classifiers and images with labels, for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from eomt.models import ImageClassifier, ViT

SIDE = 16
COLORS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 50, 40)}


def make_vit(**arguments: Any) -> ViT:
    """An encoder of 0.3 M random parameters on 16 x 16 pixels, patch 8."""
    return ViT(
        **({"backbone_name": "test_vit", "img_size": (SIDE, SIDE), "patch_size": 8, "pretrained": False} | arguments)
    )


def make_classifier(num_classes: int = 3, **arguments: Any) -> ImageClassifier:
    """A classifier on it."""
    encoder = arguments.pop("encoder", None) or make_vit()
    return ImageClassifier(encoder, num_classes, **arguments)


def enlarge(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights so large that what a network answers varies."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


def make_images(batch: int = 2, height: int = SIDE, width: int = SIDE) -> Tensor:
    """uint8 images, always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def write_photo(file: Path, color: str, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
    """An image (height, width) of a color, with noise."""
    random = np.random.default_rng(seed)
    pixels = np.array(COLORS[color]) + random.integers(-30, 30, (*size, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return file


def write_classes(folder: Path, number: int = 6, seed: int = 0) -> Path:
    """A folder of each color, with images of it."""
    for index, color in enumerate(COLORS):
        for image in range(number):
            write_photo(folder / color / f"{image}.png", color, seed + 100 * index + image)
    return folder
