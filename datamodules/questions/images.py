"""Images of questions, found by what tables call them."""

import os
import re
import unicodedata
from pathlib import Path

from datamodules.common.reading import IMAGE_EXTENSIONS

COCO_PREFIXES = ("", "COCO_train2014_", "COCO_val2014_", "COCO_test2015_")


class ImageFinder:
    """Finds images by what tables call them: a path, a name without its extension, or a number of COCO.

    Names are the same however Unicode composes their letters.

    Args:
        folder: Where relative paths start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: dict[str, Path | None] = {}

    def __call__(self, name: str) -> Path | None:
        """Return the file, None if there is none."""
        if name not in self._found:
            files = (self.folder / candidate for candidate in _candidates(name))
            # isfile, for Path.is_file raises where a name is too long for a file
            self._found[name] = next((file for file in files if os.path.isfile(file)), None)
        return self._found[name]


def _candidates(name: str) -> list[str]:
    # a file system keeps the form of Unicode in which a name was written, and a table has its own
    forms = dict.fromkeys([name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))])
    # a column of numbers with gaps comes out of a spreadsheet as 2.0
    if re.fullmatch(r"[0-9]+\.0", name):
        forms[name.removesuffix(".0")] = None
    candidates = [form + extension for form in forms for extension in ("", *IMAGE_EXTENSIONS)]
    number = list(forms)[-1]
    if number.isascii() and number.isdecimal():
        candidates += [f"{prefix}{int(number):012d}.jpg" for prefix in COCO_PREFIXES]
    return candidates if name else []
