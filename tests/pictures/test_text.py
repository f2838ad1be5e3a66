"""Letters in pictures: every accent is seen, and no line is wider than it may be."""

import unicodedata

import numpy as np
from PIL import Image

from eomt.pictures.text import draw_text, line_height, text_width, wrapped


def ink(text: str, size: int = 40) -> np.ndarray:
    picture = Image.new("RGB", (300, 80), (255, 255, 255))
    draw_text(picture, (10, 5), text, size, (0, 0, 0))
    return np.asarray(picture.convert("L")) < 128


def test_every_vietnamese_letter_looks_different() -> None:
    letters = "aàáảãạăằắẳẵặâầấẩẫậdđeèéẻẽẹêềếểễệiìíỉĩịoòóỏõọôồốổỗộơờớởỡợuùúủũụưừứửữựyỳýỷỹỵ"
    pictures = [ink(letter) for letter in letters + letters.upper()]
    for index, first in enumerate(pictures):
        for second in pictures[:index]:
            # the smallest difference is a dot: a tenth of the font's size each way, 4 x 4 pixels with faint edges
            assert (first != second).sum() > 8


def test_composed_and_decomposed_text_look_the_same() -> None:
    text = "Điện ở trường, ghế"

    assert np.array_equal(ink(text, 20), ink(unicodedata.normalize("NFD", text), 20))


def test_accents_stay_within_their_line() -> None:
    for letter in ("Ẫ", "Ể", "ỵ", "Ậ", "q"):
        rows = np.flatnonzero(ink(letter).any(axis=1))
        assert rows.min() > 5
        assert rows.max() < 5 + line_height(40) - 1


def test_lines_are_not_wider_than_they_may_be_and_lose_nothing() -> None:
    text = "Có bao nhiêu người đang ngồi trên chiếc thuyền " + "dài" * 30
    lines = wrapped(text, 17, 200)

    assert all(text_width(line, 17) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrapped("", 17, 200) == [""]
