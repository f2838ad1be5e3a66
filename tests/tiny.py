"""Tiny networks for the tests."""

import torch

from eomt.models import EoMT, ViT


def make_eomt(num_classes: int = 5, num_blocks: int = 2, **arguments: object) -> EoMT:
    """An EoMT of 0.4 M random parameters on 32 x 48 pixels, patch 8."""
    encoder = ViT("test_vit", (32, 48), pretrained=False, patch_size=8)
    return EoMT(encoder, num_classes, num_q=6, num_blocks=num_blocks, **arguments)  # type: ignore[arg-type]


def make_image(batch: int = 2) -> torch.Tensor:
    """uint8 images of 32 x 48 pixels, always the same."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, 32, 48), dtype=torch.uint8, generator=generator)
