"""Pictures as part of a page: made small, and all together bounded."""

import base64
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from eomt.errors import UserError
from eomt.utils.reading import check_regular

# bytes of all pictures of a page, as they stand in it
BUDGET = 4_000_000
# pixels of the largest file that is opened: the sheets of a run have some ten million
MOST_PIXELS = 100_000_000
QUALITY = 82


@dataclass(frozen=True)
class Embedded:
    """A picture in a page: its address holds its bytes."""

    address: str
    width: int
    height: int


class Pictures:
    """The pictures of one page.

    Args:
        folder: Of the run; a file that lies elsewhere, as behind a link, is not shown.

    Attributes:
        problems: Sentences about pictures that are left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._left = BUDGET
        self.problems: list[str] = []

    def embed(self, file: Path, most_width: int) -> Embedded | None:
        """Return a picture as JPEG; None where it is missing, is no picture, or there is no room for it.

        Args:
            file: PNG or JPEG in the folder of the run.
            most_width: Pixels; a wider picture is shrunk.
        """
        try:
            found = self._read(file, most_width)
        except UserError as error:
            self.problems.append(f"{error}.")
            return None
        if len(found.address) > self._left:
            self.problems.append(f"{file.name} is left out: the page is large enough.")
            return None
        self._left -= len(found.address)
        return found

    def _read(self, file: Path, most_width: int) -> Embedded:
        try:
            is_own = file.resolve().is_relative_to(self._folder)
        except (OSError, RuntimeError, ValueError):
            # links that lead in a circle, and names that are none
            is_own = False
        if not is_own:
            raise UserError(f"{file.name}: lies outside of the run and is not shown")
        check_regular(file, "it is not shown")
        try:
            with warnings.catch_warnings():
                # of large pictures; how large they may be is said here
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file, formats=["PNG", "JPEG"]) as opened:
                    if opened.width * opened.height > MOST_PIXELS:
                        raise UserError(f"{file.name}: has too many pixels to be shown")
                    picture = opened.convert("RGB")
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
            raise UserError(f"{file.name}: is no picture that can be shown") from error
        if picture.width > most_width:
            size = (most_width, max(1, round(picture.height * most_width / picture.width)))
            picture = picture.resize(size, Image.Resampling.BOX)
        return embedded(picture)


def embedded(picture: Image.Image) -> Embedded:
    """Return an RGB picture as part of a page."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY)
    text = base64.b64encode(file.getvalue()).decode()
    return Embedded(f"data:image/jpeg;base64,{text}", picture.width, picture.height)
