"""Titled grids of pictures."""

from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import to_pil_image

from eomt.pictures.colors import INK, PAPER, Color
from eomt.pictures.text import load_font, shortened

SMALLEST_CELL_WIDTH = 256  # pixels
LARGEST_CELL_WIDTH = 640  # pixels
MARGIN = 12  # pixels


def _cell(image: Tensor) -> Image.Image:
    """Bring an image to a readable width: whole pixels when enlarged, so that single pixels can be judged."""
    picture = to_pil_image(image)
    width, height = picture.size
    if width < SMALLEST_CELL_WIDTH:
        factor = -(-SMALLEST_CELL_WIDTH // width)
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if width > LARGEST_CELL_WIDTH:
        size = (LARGEST_CELL_WIDTH, max(1, round(height * LARGEST_CELL_WIDTH / width)))
        return picture.resize(size, Image.Resampling.BOX)
    return picture


def picture_grid(
    rows: list[list[Tensor]], column_titles: list[str], row_titles: list[str], legend: list[tuple[str, Color]]
) -> Image.Image:
    """Lay images out in titled columns, each row under its caption, with a legend below.

    Images narrower than 256 pixels are enlarged by a whole factor without smoothing, wider than 640 are shrunk.

    Args:
        rows: uint8 `(3, H, W)` images, as many per row as there are column titles; sizes may differ.
        column_titles: One per column.
        row_titles: One per row, usually the file name.
        legend: Name and color of each class worth naming.

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
    title_font, text_font = load_font(20 * scale), load_font(16 * scale)
    title_height, text_height, swatch = round(34 * scale), round(24 * scale), round(16 * scale)

    # the legend wraps, so its lines must be known before the height is
    entries: list[tuple[int, int, str, Color]] = []
    left, line = MARGIN, 0
    for name, color in legend:
        name = shortened(name, text_font, width - 3 * MARGIN - swatch)
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
        title = shortened(title, title_font, cell_width)
        draw.text((left + cell_width // 2, MARGIN), title, INK, title_font, anchor="ma")
    top = MARGIN + title_height
    for row, row_title, row_height in zip(cells, row_titles, row_heights, strict=True):
        caption = shortened(row_title, text_font, width - 2 * MARGIN)
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
