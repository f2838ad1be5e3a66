"""Mean and deviation of the colors that images are normalized with, as files beside weights have them."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin
from typing_extensions import TypedDict

from eomt.errors import UserError, first_line
from eomt.utils.hub import PREPROCESSOR_FILE, PROCESSOR_FILE, quiet
from eomt.utils.reading import checked

# of red, green and blue, 0 to 1
Colors = tuple[float, float, float]
# mean and deviation of ImageNet, with which most encoders were trained, and of CLIP's images
IMAGENET_COLORS: tuple[Colors, Colors] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP_COLORS: tuple[Colors, Colors] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
Mean = Annotated[float, Field(allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ImageProcessor(TypedDict, total=False):
    """What is read of a preprocessor_config.json."""

    do_normalize: bool | None
    image_mean: Annotated[list[Mean], Field(min_length=3, max_length=3)]
    image_std: Annotated[list[Deviation], Field(min_length=3, max_length=3)]


PROCESSOR = TypeAdapter(ImageProcessor)


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
    # what it does not expect in a file, it does not catch
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError) as error:
        if folder.is_dir():
            raise UserError(
                f"{place}: its {PREPROCESSOR_FILE} cannot be read ({first_line(error)}); copy it again"
            ) from error
        return default
    stored = checked(fields, PROCESSOR, f"{place}: {PREPROCESSOR_FILE}", "give three numbers for each")
    if stored.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = stored.get("image_mean", default[0]), stored.get("image_std", default[1])
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
