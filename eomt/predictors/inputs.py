"""Images as people have them: files, Pillow images, arrays and tensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.common.opening import DEEP_MODES
from datamodules.common.reading import read_pixels
from eomt.errors import UserError

Source = str | Path | Image.Image | np.ndarray | Tensor
# not any sequence, which a text is too
Sources = list[Source] | tuple[Source, ...]


@dataclass(frozen=True)
class NamedImage:
    """An image in memory.

    Attributes:
        pixels: uint8 RGB `(3, H, W)`, upright, on the CPU.
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
        """The pixels, uint8 `(H, W, 3)`."""
        return np.ascontiguousarray(self.pixels.permute(1, 2, 0).numpy())


def read(source: Source) -> NamedImage:
    """Return one image.

    Args:
        source: A file (turned as its EXIF orientation says); a Pillow image (likewise); an array, uint8 `(H, W)`,
            `(H, W, 3)` or `(H, W, 4)`, RGB; a tensor, `(3, H, W)` or `(1, H, W)`, uint8, or floating point from 0 to
            1. An alpha channel is dropped.

    Raises:
        UserError: For a file that cannot be read, or anything else.
    """
    if isinstance(source, str | Path):
        # a text names a file here, and never a folder or an address
        path = Path(source).expanduser()
        if not path.is_file():
            what = "is a folder; give its files" if path.is_dir() else "does not exist"
            raise UserError(f"image: {path} {what}")
        return NamedImage(read_pixels(path), path.name)
    if isinstance(source, Image.Image):
        if source.mode in DEEP_MODES:
            raise UserError(f"image: mode {source.mode}, of more than 8 bits; convert it to 8 bits")
        upright = ImageOps.exif_transpose(source).convert("RGB")
        return NamedImage(_of_array(np.asarray(upright)), Path(getattr(source, "filename", "") or "").name)
    if isinstance(source, np.ndarray):
        return NamedImage(_of_array(source))
    if isinstance(source, Tensor):
        return NamedImage(_of_tensor(source.detach().cpu()))
    raise UserError(f"image: {type(source).__name__}; give a path, a Pillow image, a numpy array or a tensor")


def listed_sources(images: Source | Sources) -> tuple[list[Source], bool]:
    """Return the images, and whether several were given: a list, or a batch in one array or tensor."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images), True
    if isinstance(images, list | tuple):
        return list(images), True
    return [images], False


def _of_array(values: np.ndarray) -> Tensor:
    shape = list(values.shape)
    if values.dtype != np.uint8:
        raise UserError(f"image: an array of {values.dtype}; give uint8, 0 to 255")
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    if values.ndim != 3 or values.shape[2] not in (3, 4) or not values.size:
        raise UserError(f"image: an array of shape {shape}; give (H, W), (H, W, 3) or (H, W, 4), RGB")
    return torch.from_numpy(np.array(values[..., :3], order="C")).permute(2, 0, 1)


def _of_tensor(values: Tensor) -> Tensor:
    if values.ndim != 3 or values.shape[0] not in (1, 3) or not values.numel():
        raise UserError(f"image: a tensor of shape {list(values.shape)}; give (3, H, W)")
    if values.is_floating_point():
        if not (values.min() >= 0 and values.max() <= 1):
            raise UserError(
                f"image: a tensor from {float(values.min()):.3g} to {float(values.max()):.3g}; give 0 to 1, before any "
                "normalization, or uint8"
            )
        values = (values * 255).round().to(torch.uint8)
    if values.dtype != torch.uint8:
        raise UserError(f"image: a tensor of {values.dtype}; give uint8 (0 to 255) or floating point (0 to 1)")
    return values.expand(3, *values.shape[1:])
