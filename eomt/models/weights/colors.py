"""Mean and deviation of the colors that images are normalized with, as files beside weights have them."""

from pathlib import Path

from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin

from eomt.errors import UserError
from eomt.utils.hub import PREPROCESSOR_FILE, PROCESSOR_FILE, first_line, quiet

# of red, green and blue, 0 to 1
Colors = tuple[float, float, float]


def as_colors(values: Tensor) -> Colors:
    """Return three numbers in any shape as red, green and blue."""
    red, green, blue = values.flatten().tolist()
    return red, green, blue


def read_colors(place: str, default: tuple[Colors, Colors]) -> tuple[Colors, Colors]:
    """Return mean and deviation that images are normalized with, as a folder or repository says.

    Args:
        place: A local folder, or the name of a repository on the hub.
        default: Where it does not say.

    Raises:
        UserError: For a file that cannot be read, or values that cannot be.
    """
    folder = Path(place)
    if folder.is_dir() and not any((folder / name).is_file() for name in (PREPROCESSOR_FILE, PROCESSOR_FILE)):
        return default
    try:
        with quiet():
            fields, _ = ImageProcessingMixin.get_image_processor_dict(place)
    except OSError as error:
        if folder.is_dir():
            raise UserError(
                f"{place}: its {PREPROCESSOR_FILE} cannot be read ({first_line(error)}); copy it again"
            ) from error
        return default
    if fields.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    found = []
    for name, values in zip(("image_mean", "image_std"), default, strict=True):
        stored = fields.get(name, list(values))
        good = isinstance(stored, list) and len(stored) == 3 and all(isinstance(v, int | float) for v in stored)
        if not good or (name == "image_std" and min(stored) <= 0):
            raise UserError(f"{place}: {PREPROCESSOR_FILE}: {name} {stored!r}; must be three numbers")
        found.append((float(stored[0]), float(stored[1]), float(stored[2])))
    return found[0], found[1]
