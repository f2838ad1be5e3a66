"""The one mask painter: class colours, masks over images, and titled grids of pictures."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_segmentation_masks

from eomt.utils.labels import IGNORE_INDEX

Color = tuple[int, int, int]

# Okabe and Ito's colours, chosen to stay apart under the common colour-vision deficiencies. Their black is left out,
# since a translucent black only darkens; the strongest contrasts come first, for data sets with few classes.
OKABE_ITO: list[Color] = [
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
    (213, 94, 0),
]

SMALLEST_CELL_WIDTH = 256  # pixels
LARGEST_CELL_WIDTH = 640  # pixels
MARGIN = 12  # pixels
INK: Color = (32, 32, 32)
PAPER: Color = (255, 255, 255)


def _perceived(rgb: np.ndarray) -> np.ndarray:
    """What colours look like: OKLab (Ottosson 2020) for normal vision, then for a deuteranope.

    Args:
        rgb: (N, 3) in [0, 255].

    Returns:
        (2, N, 3): distances between rows are distances between colours as seen.
    """
    linear = (rgb / 255.0) ** 2.2
    # Vienot, Brettel and Mollon 1999: red and green collapse onto one axis
    deuteranope = linear @ np.array([[0.29275, 0.29275, -0.02234], [0.70725, 0.70725, 0.02234], [0.0, 0.0, 1.0]])
    cones_from_rgb = np.array(
        [[0.41222, 0.21190, 0.08830], [0.53633, 0.68070, 0.28172], [0.05145, 0.10740, 0.62998]],
    )
    lab_from_cones = np.array(
        [[0.21045, 1.97800, 0.02590], [0.79362, -2.42859, 0.78277], [-0.00407, 0.45059, -0.80868]],
    )
    seen = np.stack([linear, deuteranope]).clip(0, None)
    return np.cbrt(seen @ cones_from_rgb) @ lab_from_cones


@lru_cache
def _palette(num_classes: int) -> tuple[Color, ...]:
    levels = np.linspace(0, 255, 12).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    # near black and near white a translucent colour cannot be told from shadow and light
    candidates = candidates[(candidates.max(1) > 90) & (candidates.min(1) < 200)]
    colors = np.concatenate([np.array(OKABE_ITO, dtype=float), candidates])
    seen = _perceived(colors)

    chosen = list(range(min(num_classes, len(OKABE_ITO))))
    nearest = np.full(len(colors), np.inf)
    for index in range(num_classes):
        if index == len(chosen):
            chosen.append(int(nearest.argmax()))  # farthest from every colour taken so far
        distance = np.linalg.norm(seen - seen[:, chosen[index], None], axis=-1)
        nearest = np.minimum(nearest, distance.min(0))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors[chosen])


def palette(num_classes: int) -> list[Color]:
    """One colour per class, far apart for normal and for colour-blind eyes, the same in every run.

    The first colours are Okabe and Ito's; each further one is the farthest from those before it, so a class keeps its
    colour when classes are added.

    Args:
        num_classes: 1 to 255.

    Returns:
        `num_classes` RGB triples in [0, 255].
    """
    assert 0 < num_classes <= IGNORE_INDEX, f"{num_classes} classes do not fit an 8-bit mask"
    return list(_palette(num_classes))


def overlay(image: Tensor, mask: Tensor, colors: Sequence[Color | None], alpha: float = 0.6) -> Tensor:
    """Paints the classes of a mask over an image.

    Args:
        image: uint8 (3, H, W).
        mask: class ids, int (H, W); 255 and ids without a colour leave the image as it is.
        colors: the colour of each class; None leaves the image as it is.
        alpha: 0 shows the image alone, 1 the colours alone.

    Returns:
        uint8 (3, H, W), a new tensor.
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
    """A mask as a palette image: the pixel values are the class ids, viewers show the colours.

    Args:
        mask: class ids in [0, 255], int (H, W).
        colors: the colour of each class; None is black.

    Returns:
        A picture of mode "P".
    """
    picture = Image.fromarray(mask.to(torch.uint8).cpu().numpy())
    # all 256 entries: with fewer, the PNG writer packs ids into fewer bits and cuts off the larger ones
    entries = [*colors, *[None] * (256 - len(colors))]
    picture.putpalette([channel for color in entries for channel in color or (0, 0, 0)])
    return picture


def _cell(image: Tensor) -> Image.Image:
    """Brings an image to a readable width: whole pixels when enlarged, so that single pixels can be judged."""
    picture = to_pil_image(image)
    width, height = picture.size
    if width < SMALLEST_CELL_WIDTH:
        factor = -(-SMALLEST_CELL_WIDTH // width)
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if width > LARGEST_CELL_WIDTH:
        size = (LARGEST_CELL_WIDTH, max(1, round(height * LARGEST_CELL_WIDTH / width)))
        return picture.resize(size, Image.Resampling.BOX)
    return picture


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cuts the front of a text that is too wide: the end of a file name tells more than its folders."""
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def grid(
    rows: list[list[Tensor]], column_titles: list[str], row_titles: list[str], legend: list[tuple[str, Color]]
) -> Image.Image:
    """Lays images out in titled columns, each row under its caption, with a legend below.

    Images narrower than 256 pixels are enlarged by a whole factor without smoothing, wider than 640 are shrunk.

    Args:
        rows: uint8 (3, H, W) images, as many per row as there are column titles; sizes may differ.
        column_titles: one per column.
        row_titles: one per row, usually the file name.
        legend: name and colour of each class worth naming.

    Returns:
        An RGB picture.
    """
    assert rows, "a grid needs at least one row"
    assert len(rows) == len(row_titles)
    assert all(len(row) == len(column_titles) for row in rows)
    cells = [[_cell(image) for image in row] for row in rows]
    cell_width = max(cell.width for row in cells for cell in row)
    width = MARGIN + len(column_titles) * (cell_width + MARGIN)
    # a wide picture is shown shrunk to the screen, and its text must still be readable there
    scale = min(max(width / 1500, 1.0), 2.0)
    title_font, text_font = ImageFont.load_default(20 * scale), ImageFont.load_default(16 * scale)
    title_height, text_height, swatch = round(34 * scale), round(24 * scale), round(16 * scale)

    # the legend wraps, so its lines must be known before the height is
    entries: list[tuple[int, int, str, Color]] = []
    left, line = MARGIN, 0
    for name, color in legend:
        name = _shortened(name, text_font, width - 3 * MARGIN - swatch)
        entry_width = round(swatch + 6 + text_font.getlength(name) + 2 * MARGIN)
        if left > MARGIN and left + entry_width - MARGIN > width:
            left, line = MARGIN, line + 1
        entries.append((left, line, name, color))
        left += entry_width
    legend_height = (line + 1) * (text_height) + MARGIN if legend else 0

    row_heights = [max(cell.height for cell in row) + text_height + MARGIN for row in cells]
    canvas = Image.new("RGB", (width, MARGIN + title_height + sum(row_heights) + legend_height), PAPER)
    draw = ImageDraw.Draw(canvas)
    lefts = [MARGIN + column * (cell_width + MARGIN) for column in range(len(column_titles))]

    for left, title in zip(lefts, column_titles, strict=True):
        title = _shortened(title, title_font, cell_width)
        draw.text((left + cell_width // 2, MARGIN), title, INK, title_font, anchor="ma")
    top = MARGIN + title_height
    for row, row_title, row_height in zip(cells, row_titles, row_heights, strict=True):
        caption = _shortened(row_title, text_font, width - 2 * MARGIN)
        draw.text((MARGIN, top + text_height // 2), caption, INK, text_font, anchor="lm")
        for left, cell in zip(lefts, row, strict=True):
            canvas.paste(cell, (left + (cell_width - cell.width) // 2, top + text_height))
        top += row_height
    for left, line, name, color in entries:
        middle = top + line * (text_height) + text_height // 2
        box = (left, middle - swatch // 2, left + swatch, middle + swatch // 2)
        draw.rectangle(box, fill=color, outline=INK)
        draw.text((left + swatch + 6, middle), name, INK, text_font, anchor="lm")
    return canvas


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG whole or not at all, making its folder if need be.

    Args:
        picture: of any mode that PNG knows; the mode is kept.
        path: where it is to be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        picture.save(beside, format="PNG")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
