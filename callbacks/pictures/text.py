"""Text in pictures, with the accents that Pillow's own font lacks: no other font is there on every machine."""

import unicodedata
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from callbacks.pictures.masks import Color

Line = list[tuple[float, float]]

# the font draws no line smoothly: everything is drawn so many times larger
OVERSAMPLING = 4
LINE_HEIGHT = 1.5  # font sizes; two accents fit above a capital letter
BASELINE = 1.2
STROKE = 0.075
X_HEIGHT = 0.54
ACCENT_HEIGHT = 0.2


def _dot(x: float, y: float) -> Line:
    """A stroke around a point, which makes a dot thicker than a stroke."""
    return [(x + right, y + up) for right, up in ((-0.02, -0.02), (0.02, -0.02), (0.02, 0.02), (-0.02, 0.02))]


# strokes by combining character, in font sizes, to the right of the middle of the letter and up from its top
ABOVE: dict[str, list[Line]] = {
    "\u0300": [[(-0.1, 0.19), (0.05, 0.07)]],  # grave
    "\u0301": [[(-0.05, 0.07), (0.1, 0.19)]],  # acute
    "\u0302": [[(-0.13, 0.07), (0.0, 0.18), (0.13, 0.07)]],  # circumflex
    "\u0303": [[(-0.15, 0.09), (-0.08, 0.15), (0.07, 0.09), (0.15, 0.15)]],  # tilde
    "\u0304": [[(-0.12, 0.12), (0.12, 0.12)]],  # macron
    "\u0306": [[(-0.13, 0.18), (-0.07, 0.09), (0.07, 0.09), (0.13, 0.18)]],  # breve
    "\u0307": [_dot(0.0, 0.12)],  # dot
    "\u0308": [_dot(-0.1, 0.12), _dot(0.1, 0.12)],  # diaeresis
    "\u0309": [[(-0.06, 0.22), (0.04, 0.22), (0.05, 0.15), (0.0, 0.12), (0.0, 0.07)]],  # hook
    "\u030a": [[(-0.06, 0.13), (0.0, 0.07), (0.06, 0.13), (0.0, 0.19), (-0.06, 0.13)]],  # ring
    "\u030b": [[(-0.12, 0.07), (-0.03, 0.19)], [(0.04, 0.07), (0.13, 0.19)]],  # double acute
    "\u030c": [[(-0.13, 0.18), (0.0, 0.07), (0.13, 0.18)]],  # caron
}
# up from the baseline
BELOW: dict[str, list[Line]] = {
    "\u0323": [_dot(0.0, -0.16)],  # dot
    "\u0327": [[(0.02, 0.0), (0.02, -0.06), (0.06, -0.12), (-0.06, -0.2)]],  # cedilla
    "\u0328": [[(0.06, 0.0), (-0.02, -0.12), (0.08, -0.2)]],  # ogonek
}
# to the right of the letter's right edge and up from its top
HORN = ("\u031b", [[(-0.07, -0.05), (0.03, -0.05), (0.08, 0.0), (0.08, 0.09)]])
# letters that Unicode does not take apart, as a letter and a stroke, from its middle and the baseline
CROSSED: dict[str, tuple[str, Line]] = {
    "đ": ("d", [(-0.02, 0.62), (0.26, 0.62)]),
    "Đ": ("D", [(-0.33, 0.37), (-0.03, 0.37)]),
    "ø": ("o", [(-0.2, -0.04), (0.2, 0.58)]),
    "Ø": ("O", [(-0.26, -0.04), (0.26, 0.76)]),
    "ł": ("l", [(-0.13, 0.3), (0.13, 0.46)]),
    "Ł": ("L", [(-0.3, 0.26), (0.0, 0.44)]),
}
# what has a dot that gives way to an accent
DOTTED = "ij"


def line_height(size: int) -> int:
    """Pixels from one line to the next."""
    return round(LINE_HEIGHT * size)


def text_width(text: str, size: int) -> float:
    """Width of a line in pixels.

    Args:
        text: of one line.
        size: of the font, in pixels.
    """
    return _font(size * OVERSAMPLING).getlength("".join(letter for letter, _ in _letters(text))) / OVERSAMPLING


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Breaks a text into lines, at spaces, and within words that are wider than a line.

    Args:
        text: of any length.
        size: of the font, in pixels.
        width: of a line, in pixels.
    """
    lines = [""]
    for word in text.split():
        if text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] = f"{lines[-1]} {word}".strip()
            continue
        if lines[-1]:
            lines.append("")
        for character in unicodedata.normalize("NFC", word):
            if lines[-1] and text_width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return lines


def draw_text(picture: Image.Image, corner: tuple[int, int], text: str, size: int, color: Color) -> None:
    """Draws a line of text.

    Args:
        picture: RGB, is drawn on.
        corner: left and top of the line, in pixels.
        text: Latin letters with accents are drawn; letters of other scripts are boxes.
        size: of the font, in pixels.
        color: of the text.
    """
    if not text:
        return
    em = size * OVERSAMPLING
    font = _font(em)
    baseline, before = round(BASELINE * em), ""
    letters = _letters(text)
    bare = "".join(letter for letter, _ in letters)
    mask = Image.new("L", (round(font.getlength(bare)) + em, line_height(size) * OVERSAMPLING))
    draw = ImageDraw.Draw(mask)
    draw.text((0, baseline), bare, 255, font, anchor="ls")
    for letter, marks in letters:
        # where kerning puts it: the width up to its end less its own
        left = font.getlength(before + letter) - font.getlength(letter)
        before += letter
        _draw_marks(draw, font, letter, marks, (left, baseline))
    mask = mask.resize((mask.width // OVERSAMPLING, mask.height // OVERSAMPLING), Image.Resampling.BOX)
    picture.paste(color, corner, mask)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _letters(text: str) -> list[tuple[str, str]]:
    """Each letter that the font has, with its marks."""
    letters: list[tuple[str, str]] = []
    for character in unicodedata.normalize("NFD", text):
        if unicodedata.combining(character) and letters:
            letter, marks = letters[-1]
            letters[-1] = (letter, marks + character)
        elif character in CROSSED:
            letters.append((CROSSED[character][0], character))
        else:
            letters.append((character, ""))
    return letters


def _draw_marks(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, letter: str, marks: str, origin: tuple[float, int]
) -> None:
    """Draws what stands around a letter, whose left edge and baseline are at `origin`."""
    left, baseline = origin
    em = font.size
    box = font.getbbox(letter, anchor="ls")
    middle, right, top = left + (box[0] + box[2]) / 2, left + box[2], baseline + box[1]
    if letter in DOTTED and any(mark in ABOVE for mark in marks):
        draw.rectangle((left, 0, left + font.getlength(letter), baseline - 1.04 * X_HEIGHT * em), fill=0)
        top = baseline - X_HEIGHT * em
    for mark in marks:
        if mark in CROSSED:
            _draw_strokes(draw, [CROSSED[mark][1]], (middle, baseline), em)
        elif mark in BELOW:
            _draw_strokes(draw, BELOW[mark], (middle, baseline), em)
        elif mark == HORN[0]:
            _draw_strokes(draw, HORN[1], (right, top), em)
        elif mark in ABOVE:
            _draw_strokes(draw, ABOVE[mark], (middle, top), em)
            top -= ACCENT_HEIGHT * em


def _draw_strokes(draw: ImageDraw.ImageDraw, lines: list[Line], origin: tuple[float, float], em: float) -> None:
    width = round(STROKE * em)
    for line in lines:
        points = [(origin[0] + x * em, origin[1] - y * em) for x, y in line]
        draw.line(points, 255, width, joint="curve")
        for point in points:
            draw.circle(point, width / 2, fill=255)
