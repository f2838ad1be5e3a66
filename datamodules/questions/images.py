"""Images of questions, found by what tables call them."""

import re
from pathlib import Path

from datamodules.common.file_names import FileFinder
from eomt.utils.images import COMMON_EXTENSIONS, RARE_EXTENSIONS

COCO_PREFIXES = ("", "COCO_train2014_", "COCO_val2014_", "COCO_test2015_")


class ImageFinder:
    """Finds images by what tables call them: a path, a name without its extension, or a number of COCO.

    Names are the same however Unicode composes their letters, and whatever the case of their extension.

    Args:
        folder: Where relative paths start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._find = FileFinder(folder)
        self._found: dict[str, Path | None] = {}

    def __call__(self, name: str) -> Path | None:
        """Return the file, None if there is none."""
        if name not in self._found:
            files = map(self._find, _candidates(name))
            self._found[name] = next((file for file in files if file is not None), None)
        return self._found[name]


def _candidates(name: str) -> list[str]:
    forms = [name]
    # a column of numbers with gaps comes out of a spreadsheet as 2.0
    if re.fullmatch(r"[0-9]+\.0", name):
        forms.append(name.removesuffix(".0"))
    candidates = [form + extension for form in forms for extension in ("", *COMMON_EXTENSIONS)]
    number = forms[-1]
    if number.isascii() and number.isdecimal():
        candidates += [f"{prefix}{int(number):012d}.jpg" for prefix in COCO_PREFIXES]
    candidates += [form + extension for form in forms for extension in RARE_EXTENSIONS]
    return candidates if name else []
