"""Text in pictures, in DejaVu Sans: matplotlib brings it to every machine, and it has the accents of Vietnamese."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eomt.pictures.colors import Color

# font sizes; two accents fit above a capital letter
LINE_HEIGHT = 1.5
BASELINE = 1.2


@lru_cache
def load_font(size: float) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures.

    Args:
        size: Of the font, in pixels.
    """
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def line_height(size: int) -> int:
    """Return the pixels from one line to the next, of a font of `size` pixels."""
    return round(LINE_HEIGHT * size)


def text_width(text: str, size: int) -> float:
    """Return the width of a line in pixels, in a font of `size` pixels."""
    return load_font(size).getlength(_composed(text))


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a text without its beginning where it is wider than `width` pixels: a file's name ends with the file."""
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Break a text into lines, at spaces, and within words that are wider than a line.

    Args:
        text: Of any length.
        size: Of the font, in pixels.
        width: Of a line, in pixels.

    Returns:
        One line or more.
    """
    lines = [""]
    for word in text.split():
        if text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        if lines[-1]:
            lines.append("")
        for character in _composed(word):
            if lines[-1] and text_width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return lines


def draw_text(picture: Image.Image, corner: tuple[int, int], text: str, size: int, color: Color) -> None:
    """Draw a line of text.

    Args:
        picture: RGB; it is drawn on.
        corner: Left and top of the line, in pixels.
        text: Letters that the font has not, as Chinese ones, are boxes.
        size: Of the font, in pixels.
        color: Of the text.
    """
    left, top = corner
    baseline = top + round(BASELINE * size)
    ImageDraw.Draw(picture).text((left, baseline), _composed(text), color, load_font(size), anchor="ls")


def _composed(text: str) -> str:
    # Pillow alone does not put an accent on the letter before it, and draws no line breaks or broken characters
    printable = (letter if letter.isprintable() else "?" for letter in unicodedata.normalize("NFC", text))
    return "".join(printable)
