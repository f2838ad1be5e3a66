"""Images as people have them: files, Pillow images, arrays and tensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.common.conversion import Conversion, ConvertedImage
from datamodules.common.opening import DEEP_MODES
from datamodules.common.reading import read_pixels
from datamodules.common.values import values_of
from eomt.errors import UserError
from eomt.utils.images import RGB, shown_channels


@dataclass(frozen=True)
class NamedImage:
    """An image in memory.

    Attributes:
        pixels: What a network takes, uint8 `(C, H, W)`, upright, on the CPU; the first three are red, green and blue.
        name: Name of its file; "" if it came from memory.
    """

    pixels: Tensor
    name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    @property
    def array(self) -> np.ndarray:
        """The pixels as pictures show them, RGB, uint8 `(H, W, 3)`."""
        return np.ascontiguousarray(shown_channels(self.pixels).permute(1, 2, 0).numpy())


Source = str | Path | Image.Image | np.ndarray | Tensor | NamedImage
# not any sequence, which a text is too
Sources = list[Source] | tuple[Source, ...]


def read(source: Source, conversion: Conversion | None = None) -> NamedImage:
    """Return one image.

    Args:
        source: A file (turned as its EXIF orientation says); a Pillow image (likewise); an array, uint8 `(H, W)`,
            `(H, W, 3)` or `(H, W, 4)`, RGB; a tensor, `(3, H, W)` or `(1, H, W)`, uint8, or floating point from 0 to
            1. An alpha channel is dropped.
        conversion: How stored values become what the network takes, where it was trained on such images: those of files
            and Pillow images, and arrays of any numbers, `(H, W)` or `(H, W, bands)`. A tensor holds what comes out of
            it, `(C, H, W)`, and a page is one of files.

    Raises:
        UserError: For a file that cannot be read, or anything else.
    """
    if isinstance(source, NamedImage):
        return source
    if isinstance(source, str | Path):
        # a text names a file here, and never a folder or an address
        path = Path(source).expanduser()
        if not path.is_file():
            what = "is a folder; give its files" if path.is_dir() else "does not exist"
            raise UserError(f"image: {path} {what}")
        return NamedImage(read_pixels(path if conversion is None else ConvertedImage(path, conversion)), path.name)
    if isinstance(source, Tensor):
        return NamedImage(_of_tensor(source.detach().cpu(), RGB if conversion is None else conversion.num_channels))
    if conversion is not None and isinstance(source, Image.Image | np.ndarray):
        return _converted(source, conversion)
    if isinstance(source, Image.Image):
        if source.mode in DEEP_MODES:
            raise UserError(f"image: mode {source.mode}, of more than 8 bits; convert it to 8 bits")
        upright = ImageOps.exif_transpose(source).convert("RGB")
        return NamedImage(_of_array(np.asarray(upright)), _name_of(source))
    if isinstance(source, np.ndarray):
        return NamedImage(_of_array(source))
    raise UserError(f"image: {type(source).__name__}; give a path, a Pillow image, a numpy array or a tensor")


def listed_sources(images: Source | Sources) -> tuple[list[Source], bool]:
    """Return the images, and whether several were given: a list, or a batch in one array or tensor."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images), True
    if isinstance(images, list | tuple):
        return list(images), True
    return [images], False


def _name_of(image: Image.Image) -> str:
    return Path(getattr(image, "filename", "") or "").name


def _converted(source: Image.Image | np.ndarray, conversion: Conversion) -> NamedImage:
    values, name = (source, "") if isinstance(source, np.ndarray) else (values_of(source), _name_of(source))
    if values.ndim not in (2, 3) or not values.size or values.dtype.kind not in "uif":
        raise UserError(f"image: values of {values.dtype} in shape {list(values.shape)}; give (H, W) or (H, W, bands)")
    channels = conversion.applied(values if values.ndim == 3 else values[..., None], name or "image")
    return NamedImage(torch.from_numpy(channels).permute(2, 0, 1), name)


def _of_array(values: np.ndarray) -> Tensor:
    shape = list(values.shape)
    if values.dtype != np.uint8:
        raise UserError(f"image: an array of {values.dtype}; give uint8, 0 to 255")
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if values.ndim != 3 or values.shape[2] not in (3, 4) or not values.size:
        raise UserError(f"image: an array of shape {shape}; give (H, W), (H, W, 3) or (H, W, 4), RGB")
    return torch.from_numpy(np.array(values[..., :3], order="C")).permute(2, 0, 1)


def _of_tensor(values: Tensor, count: int) -> Tensor:
    # of one channel gray is made, but of more than three none is left out
    if values.ndim != 3 or values.shape[0] not in ({1, RGB} if count == RGB else {count}) or not values.numel():
        raise UserError(f"image: a tensor of shape {list(values.shape)}; give ({count}, H, W)")
    if values.is_floating_point():
        if not (values.min() >= 0 and values.max() <= 1):
            raise UserError(
                f"image: a tensor from {float(values.min()):.3g} to {float(values.max()):.3g}; give 0 to 1, before any "
                "normalization, or uint8"
            )
        values = (values * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise UserError(f"image: a tensor of {values.dtype}; give uint8 (0 to 255) or floating point (0 to 1)")
    return values.expand(count, *values.shape[1:])
