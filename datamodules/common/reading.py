"""The one reader of images and the one reader of masks."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.common.conversion import ConvertedImage
from datamodules.common.decoding import decode_rgb
from datamodules.common.mask_labels import Color, color_codes, stored_labels
from datamodules.common.opening import content_of, opened, page_count, refuse_page, refuse_unusable, upright
from datamodules.common.orientation import stated_orientation, stored_and_orientation, stored_size, turned
from datamodules.common.zip_members import ImageFile
from eomt.utils.images import shown_channels


def read_pixels(path: ImageFile) -> Tensor:
    """Read an image as RGB, or as the channels that a conversion makes, turned as its EXIF orientation says.

    Returns:
        (C, H, W) uint8; a pixel's colors lie side by side in memory, as torchvision resizes them fastest.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    if isinstance(path, ConvertedImage):
        return torch.from_numpy(path.pixels()).permute(2, 0, 1)
    with opened(path) as image:
        refuse_unusable(path, image)
        stored = decode_rgb(image)
        pixels = np.array(upright(image, "RGB")) if stored is None else turned(stored, stated_orientation(image))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_image(path: ImageFile) -> Image.Image:
    """Read an image as `read_pixels` does, for Pillow; of more than three channels the first three.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    return Image.fromarray(shown_channels(read_pixels(path)).permute(1, 2, 0).contiguous().numpy())


def read_small_image(path: ImageFile, side: int) -> Image.Image:
    """Read an image as `read_image` does, of JPEG at a fraction of its size, at least `side` pixels each way.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    if isinstance(path, ConvertedImage):
        return read_image(path)
    with opened(path) as image:
        refuse_unusable(path, image)
        image.draft(None, (side, side))
        return upright(image, "RGB")


def read_image_with_opacity(path: ImageFile) -> Image.Image:
    """Read an image as RGBA, turned as its EXIF orientation says; without transparency it is opaque.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    with opened(path) as image:
        refuse_unusable(path, image)
        return upright(image, "RGBA")


def has_transparency(path: ImageFile) -> bool:
    """Return whether an image file stores how opaque its pixels are.

    Raises:
        UserError: The file is damaged.
    """
    with opened(path) as image:
        return image.has_transparency_data


def check_image(path: ImageFile) -> tuple[int, int]:
    """Return an image's (height, width) as `read_image` would give it, at a fraction of the cost of decoding.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """
    if isinstance(path, ConvertedImage):
        height, width, _ = path.pixels().shape
        return height, width
    with opened(path) as image:
        refuse_unusable(path, image)
        stored, orientation = stored_and_orientation(image)
        if image.format == "PNG":
            image.verify()
        else:
            # only PNG has checksums; an eighth of the size, which JPEG offers, is enough to find a truncated file
            image.draft(None, (1, 1))
            image.load()
    # a quarter turn is its own inverse here
    return stored_size(stored, orientation)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before its pixels.

    Args:
        height: As stored, before any turning.
        width: As stored.
        format: "PNG", "JPEG", ...
        mode: How Pillow calls its kind of pixels: "RGB", "L", "P", ...
        compression: How the pixels are compressed, in aspects that vary apart: of JPEG its quantization tables, its
            subsampling of colors, and whether it is progressive; of WebP the codec, of TIFF the method.
        metadata: Names of what the file tells beside its pixels: EXIF, a color profile, comments, ...
    """

    height: int
    width: int
    format: str
    mode: str
    compression: tuple[str, str, str]
    metadata: tuple[str, ...]


def read_header(path: ImageFile) -> ImageHeader:
    """Return what an image file says of itself.

    Raises:
        UserError: The file is damaged.
    """
    with opened(path) as image:
        width, height = image.size
        tables, layers = getattr(image, "quantization", None), getattr(image, "layer", [])
        codec = _webp_codec(path) if image.format == "WEBP" else str(image.info.get("compression", ""))
        compression = (
            str(tables) if tables else codec,
            str([layer[1:3] for layer in layers]),
            "progressive" if "progressive" in image.info else "",
        )
        # these two are of the compression
        metadata = tuple(sorted(map(str, image.info.keys() - {"progressive", "progression"})))
        return ImageHeader(height, width, image.format or "", image.mode, compression, metadata)


def _webp_codec(path: ImageFile) -> str:
    """Return "VP8" for a lossy, "VP8L" for a lossless WebP, "" for an animated one."""
    content = content_of(path)
    start = 12
    while start + 8 <= len(content):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        if name.startswith(b"VP8") and name != b"VP8X":
            return name.decode().strip()
        # chunks are of an even number of bytes
        start += 8 + size + size % 2
    return ""


def image_size(path: ImageFile) -> tuple[int, int]:
    """Return an image's (height, width), turned as its EXIF orientation says, from the head of its file.

    Raises:
        UserError: The file is damaged.
    """
    # a quarter turn is its own inverse here
    return stored_size(*stored_layout(path))


def stored_layout(path: ImageFile) -> tuple[tuple[int, int], int]:
    """Return (height, width) of the pixels in an image file, and its EXIF orientation.

    Raises:
        UserError: The file is damaged.
    """
    if isinstance(path, ConvertedImage):
        return path.stored()
    with opened(path) as image:
        return stored_and_orientation(image)


def orientation_of(path: ImageFile) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 without one.

    Raises:
        UserError: The file is damaged.
    """
    return stored_layout(path)[1]


def read_mask(path: ImageFile, class_colors: list[Color] | None = None, image: ImageFile | None = None) -> np.ndarray:
    """Read a mask as raw labels, turned as its own EXIF orientation says, else as that of its image.

    A mask without an orientation is one of its image's stored pixels, and is turned like them. Only where it lacks
    their size, as after a quarter turn, was it drawn on the turned image, and stays as it is.

    Without `class_colors` the stored numbers are the labels: palette indices, gray values, bits, or the common
    value of three equal channels. With `class_colors` every mask is read by its colors, palette and gray files
    too, and the label is the color's position in the list.

    Args:
        path: The mask.
        class_colors: Colors of the labels.
        image: File of the image that the mask is of.

    Returns:
        (H, W) array of unsigned integers.

    Raises:
        UserError: The file is damaged, is a color mask without `class_colors`, or has a color not listed.
    """
    return _read_like(path, image, lambda mask: stored_labels(path, mask, class_colors))


def read_color_codes(path: ImageFile, image: ImageFile) -> np.ndarray:
    """Read a mask as red + 256 green + 65536 blue, (H, W) int32, turned as `read_mask` turns it.

    Raises:
        UserError: The file is damaged, a grayscale image of more than 8 bits, or a line of pixels.
    """

    def codes(mask: Image.Image) -> np.ndarray:
        refuse_unusable(path, mask)
        return color_codes(np.asarray(mask.convert("RGB"))[..., ::-1])

    return _read_like(path, image, codes)


def _read_like(path: ImageFile, image: ImageFile | None, pixels_of: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Return what a mask's pixels mean, (H, W), turned as its own orientation says, else as that of its image."""
    with opened(path) as mask:
        refuse_page(path, None, page_count(mask))
        own = stated_orientation(mask)
        # before the pixels are looked at, for of TIFF these are turned already
        pixels = pixels_of(mask if own == 1 else ImageOps.exif_transpose(mask))
    if own != 1 or image is None:
        return np.ascontiguousarray(pixels)
    stored, orientation = stored_layout(image)
    return turned(pixels, orientation if pixels.shape == stored else 1)
