"""Objects over images: each in a color, with an outline and a text."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from eomt.pictures.colors import INK, PAPER, Color, palette
from eomt.pictures.masks import overlay
from eomt.pictures.text import load_font
from eomt.tasks.index_maps import index_map

# colors of objects of a single class repeat after so many
MOST_COLORS = 24
# of texts, and how they grow with the width of large pictures
TEXT_SIZE, TEXT_SHARE = 11, 1 / 40


def colors_of(labels: Sequence[int], num_classes: int) -> list[Color]:
    """Return the color of each object: that of its class, or where there is one class a color of its own.

    Args:
        labels: Class ids.
        num_classes: C.
    """
    if num_classes > 1:
        colors = palette(num_classes)
        return [colors[label] for label in labels]
    own = palette(MOST_COLORS)
    return [own[index % MOST_COLORS] for index in range(len(labels))]


def draw_objects(
    image: Tensor,
    masks: Tensor,
    colors: Sequence[Color],
    texts: Sequence[str] | None = None,
    alpha: float = 0.35,
    least_width: int = 0,
) -> Tensor:
    """Paint objects over an image; smaller ones lie on top, and outlines are seen even there.

    Args:
        image: uint8 `(3, H, W)`.
        masks: bool `(N, H, W)`; they may overlap.
        colors: N colors.
        texts: N texts, in the middle of the objects; None writes nothing.
        alpha: 0 shows the image inside of outlines, 1 the colors alone.
        least_width: Of the picture in pixels: it is enlarged by a whole factor before outlines and texts are drawn.

    Returns:
        uint8 `(3, f H, f W)`, a new tensor.
    """
    factor = max(1, -(-least_width // image.shape[-1]))
    palette_of = list(dict.fromkeys(colors))
    numbers = torch.tensor([palette_of.index(color) for color in colors], dtype=torch.int64)
    painted = overlay(image, index_map(masks, numbers), [None, *palette_of], alpha)
    pixels = painted.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0).numpy()
    thickness = -(-pixels.shape[1] // 250)
    for mask, color in zip(masks.numpy(), colors, strict=True):
        pixels[outline(mask.repeat(factor, 0).repeat(factor, 1), thickness)] = color
    picture = Image.fromarray(pixels)
    for mask, text in zip(masks.numpy(), texts or [""] * len(masks), strict=True):
        _write(picture, mask, factor, text)
    return torch.as_tensor(pil_to_tensor(picture))


def outline(mask: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Return the pixels of a mask, bool `(H, W)`, that lie at its edge; the edge of the image is none."""
    return mask & ~ndimage.binary_erosion(mask, iterations=thickness, border_value=1)


def _write(picture: Image.Image, mask: np.ndarray, factor: int, text: str) -> None:
    """Write a text over the middle of a mask, inside of the picture."""
    if not text or not mask.any():
        return
    font = load_font(max(TEXT_SIZE, round(picture.width * TEXT_SHARE)))
    rows, columns = np.nonzero(mask)
    half, above = font.getlength(text) / 2 + 1, font.size * 0.6
    x, y = (
        min(max(factor * float(np.median(places)), margin), max(margin, length - margin))
        for places, margin, length in ((columns, half, picture.width), (rows, above, picture.height))
    )
    draw = ImageDraw.Draw(picture)
    draw.text((x, y), text, INK, font, anchor="mm", stroke_width=max(1, round(font.size / 8)), stroke_fill=PAPER)
