"""How the names of images end, which data modules find; and what is shown of images with many channels."""

from torch import Tensor

# channels of a picture
RGB = 3

COMMON_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
# of pictures that Pillow reads; not of documents (.eps), of maps of numbers (.pfm, .fits) and of icons, which are named
RARE_EXTENSIONS = (
    *(".jpe", ".jfif", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c", ".gif", ".apng", ".avif", ".avifs", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".qoi", ".pcx", ".psd", ".sgi", ".rgb", ".rgba", ".bw", ".ras"),
    *(".mpo", ".dds", ".im", ".icb", ".vda", ".vst", ".xbm", ".xpm", ".pxr"),
)
IMAGE_EXTENSIONS = COMMON_EXTENSIONS + RARE_EXTENSIONS


def shown_channels(image: Tensor) -> Tensor:
    """Return the red, green and blue of images (..., C, H, W): the first three of their channels."""
    return image[..., :RGB, :, :]
