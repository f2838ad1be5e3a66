"""Objects over images: each in a color, with an outline and a text."""

from collections.abc import Iterator, Sequence

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
# where a text is tried whose place in the middle of an object is taken, in shares of its pixels from above
SPOTS = (0.25, 0.75, 0.1, 0.9, 0.4, 0.6, 0.0, 1.0)
# rows or columns of a mask that are looked at
MOST_SPOTS = 256

# left, top, right and bottom, in pixels
Box = tuple[float, float, float, float]


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
    text_share: float = TEXT_SHARE,
) -> Tensor:
    """Paint objects over an image; smaller ones lie on top, and outlines are seen even there.

    Args:
        image: uint8 `(3, H, W)`.
        masks: Packed or bool `(N, H, W)`; they may overlap.
        colors: N colors.
        texts: N texts, inside of the objects, each where none of those before it stands; one that finds no such place
            is left out. None writes nothing.
        alpha: 0 shows the image inside of outlines, 1 the colors alone.
        least_width: Of the picture in pixels: it is enlarged by a whole factor before outlines and texts are drawn.
        text_share: Size of the texts in widths of the picture, where that is more than what can be read at all.

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
    taken: list[Box] = []
    for (top, left, mask), text in zip(packed.parts(), texts or [""] * len(packed), strict=True):
        if text and mask.any():
            _write(picture, mask, (top, left), factor, text, text_share, taken)
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


def _write(
    picture: Image.Image,
    mask: np.ndarray,
    corner: tuple[int, int],
    factor: int,
    text: str,
    share: float,
    taken: list[Box],
) -> None:
    """Write a text over a mask, inside of the picture and where no other stands.

    Args:
        picture: RGB; it is drawn on.
        mask: bool `(h, w)`, not empty.
        corner: Its first row and column in the image.
        factor: By which the picture is larger than the image.
        text: What is written.
        share: Size of the text in widths of the picture.
        taken: Where others stand; the place of this one is added.
    """
    font = load_font(max(TEXT_SIZE, round(picture.width * share)))
    half, above = font.getlength(text) / 2 + 1, font.size * 0.6
    for row, column in _spots(mask):
        x, y = (
            min(max(factor * (place + first), margin), max(margin, length - margin))
            for place, first, margin, length in (
                (column, corner[1], half, picture.width),
                (row, corner[0], above, picture.height),
            )
        )
        box = (x - half, y - above, x + half, y + above)
        if not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in taken):
            taken.append(box)
            stroke = max(1, round(font.size / 8))
            draw = ImageDraw.Draw(picture)
            draw.text((x, y), text, INK, font, anchor="mm", stroke_width=stroke, stroke_fill=PAPER)
            return


def _spots(mask: np.ndarray) -> Iterator[tuple[float, float]]:
    """Yield rows and columns where a text may stand on a mask, the best first: its middle, then parts of its height."""
    # of a large mask a few pixels tell where it is, if they do
    step = -(-max(mask.shape) // MOST_SPOTS)
    thinned = mask[::step, ::step]
    thinned, step = (thinned, step) if thinned.any() else (mask, 1)
    rows, columns = np.nonzero(thinned)
    yield step * float(np.median(rows)), step * float(np.median(columns))
    for share in SPOTS:
        row = rows[int(share * (len(rows) - 1))]
        yield step * float(row), step * float(np.median(columns[rows == row]))
