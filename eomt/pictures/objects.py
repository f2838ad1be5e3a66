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
from eomt.utils.packed_masks import PackedMasks, Part, paint

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
    masks: Tensor | PackedMasks,
    colors: Sequence[Color],
    texts: Sequence[str] | None = None,
    alpha: float = 0.35,
    least_width: int = 0,
) -> Tensor:
    """Paint objects over an image; smaller ones lie on top, and outlines are seen even there.

    Args:
        image: uint8 `(3, H, W)`.
        masks: Packed or bool `(N, H, W)`; they may overlap.
        colors: N colors.
        texts: N texts, in the middle of the objects; None writes nothing.
        alpha: 0 shows the image inside of outlines, 1 the colors alone.
        least_width: Of the picture in pixels: it is enlarged by a whole factor before outlines and texts are drawn.

    Returns:
        uint8 `(3, f H, f W)`, a new tensor.
    """
    factor, packed = max(1, -(-least_width // image.shape[-1])), PackedMasks.of(masks)
    palette_of = list(dict.fromkeys(colors))
    numbers = torch.tensor([palette_of.index(color) for color in colors], dtype=torch.int64)
    painted = overlay(image, index_map(packed, numbers).cpu(), [None, *palette_of], alpha)
    pixels = painted.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0).numpy()
    thickness = -(-pixels.shape[1] // 250)
    for (top, left, mask), color in zip(packed.parts(), colors, strict=True):
        enlarged = factor * top, factor * left, mask.repeat(factor, 0).repeat(factor, 1)
        paint(pixels, outline(enlarged, (pixels.shape[0], pixels.shape[1]), thickness), color)
    picture = Image.fromarray(pixels)
    for part, text in zip(packed.parts(), texts or [""] * len(packed), strict=True):
        _write(picture, part, factor, text)
    return torch.as_tensor(pil_to_tensor(picture))


def outline(part: Part, size: tuple[int, int], thickness: int = 1) -> Part:
    """Return the pixels of a mask that lie at its edge; the edge of the image, of this size, is none."""
    top, left, mask = part
    # where the image goes on beside the rectangle
    edges = [
        (int(first > 0), int(first + length < whole))
        for first, length, whole in zip((top, left), mask.shape, size, strict=True)
    ]
    inner = ndimage.binary_erosion(np.pad(mask, edges), iterations=thickness, border_value=1)
    (above, _), (before, _) = edges
    height, width = mask.shape
    return top, left, mask & ~inner[above : above + height, before : before + width]


def _write(picture: Image.Image, part: Part, factor: int, text: str) -> None:
    """Write a text over the middle of a mask, inside of the picture."""
    top, left, mask = part
    if not text or not mask.any():
        return
    font = load_font(max(TEXT_SIZE, round(picture.width * TEXT_SHARE)))
    rows, columns = np.nonzero(mask)
    half, above = font.getlength(text) / 2 + 1, font.size * 0.6
    x, y = (
        min(max(factor * float(first + np.median(places)), margin), max(margin, length - margin))
        for first, places, margin, length in ((left, columns, half, picture.width), (top, rows, above, picture.height))
    )
    draw = ImageDraw.Draw(picture)
    draw.text((x, y), text, INK, font, anchor="mm", stroke_width=max(1, round(font.size / 8)), stroke_fill=PAPER)
