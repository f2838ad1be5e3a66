"""The one mask painter: classes over images, and masks whose pixels are class ids."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from eomt.pictures.colors import Color
from eomt.utils.labels import IGNORE_INDEX


def overlay(image: Tensor, mask: Tensor, colors: Sequence[Color | None], alpha: float = 0.6) -> Tensor:
    """Paint the classes of a mask over an image.

    Args:
        image: uint8 `(3, H, W)`.
        mask: Class ids, int `(H, W)`; 255 and ids without a color leave the image as it is.
        colors: The color of each class; None leaves the image as it is.
        alpha: 0 shows the image alone, 1 the colors alone.

    Returns:
        uint8 `(3, H, W)`, a new tensor.
    """
    painted = (mask >= 0) & (mask < len(colors)) & (mask != IGNORE_INDEX)
    for index, color in enumerate(colors):
        if color is None:
            painted &= mask != index
    present = mask[painted].unique()
    if len(present) == 0:
        return image.clone()
    layers = mask == present[:, None, None]
    drawn = draw_segmentation_masks(image, layers, alpha, [colors[index] for index in present.tolist()])
    # draw_segmentation_masks blends untouched pixels with themselves, which rounds some down by one
    return torch.where(painted, drawn, image)


def index_image(mask: Tensor, colors: Sequence[Color | None]) -> Image.Image:
    """Return a mask as a palette image: the pixel values are the class ids, viewers show the colors.

    Args:
        mask: Class ids in [0, 65535], int `(H, W)`.
        colors: The color of each class; None is black.

    Returns:
        A picture of mode "P"; of 16 bits and without colors where an id is above 255.
    """
    if mask.max() > 255:
        return Image.fromarray(mask.cpu().numpy().astype(np.uint16))
    picture = Image.fromarray(mask.to(torch.uint8).cpu().numpy())
    # all 256 entries: with fewer, the PNG writer packs ids into fewer bits and cuts off the larger ones
    entries = [*colors, *[None] * (256 - len(colors))]
    picture.putpalette([channel for color in entries for channel in color or (0, 0, 0)])
    return picture
