"""Decoding of the pixels of an opened file, with as few copies as its format allows."""

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

# sampling of the components (horizontal, vertical) for which torchvision's decoder and Pillow's were compared: gray,
# 4:4:4, 4:2:2 and 4:2:0
COMPARED_SAMPLINGS = (((1, 1),), ((1, 1), (1, 1), (1, 1)), ((2, 1), (1, 1), (1, 1)), ((2, 2), (1, 1), (1, 1)))


def decode_rgb(image: Image.Image) -> np.ndarray | None:
    """Decode an ordinary JPEG to RGB by torchvision, which gives the pixels that Pillow gives.

    torchvision decodes into the array that is used, where Pillow has a layout of its own that must be copied. PNG is
    not decoded so: a damaged one ends the process in torchvision's decoder.

    Args:
        image: Opened and not decoded yet; Pillow can decode it afterwards all the same.

    Returns:
        (H, W, 3) uint8 as they are stored, not turned; None where Pillow must decode: another format, mode or
        sampling, or a file that torchvision cannot decode, of which Pillow says what is wrong.
    """
    file = getattr(image, "fp", None)
    sampling = tuple(tuple(component[1:3]) for component in getattr(image, "layer", ()))
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or sampling not in COMPARED_SAMPLINGS or file is None:
        return None
    # Pillow, where it decodes afterwards, goes to the beginning too
    file.seek(0)
    content = bytearray(file.read())
    try:
        pixels = decode_jpeg(torch.frombuffer(content, dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0).numpy()
