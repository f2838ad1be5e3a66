"""Images that show nothing, on which an answer about a face would be made up."""

import torch.nn.functional as F
from torch import Tensor

# gray levels, 0 to 255; drawn faces have 12 at least
LEAST_CONTRAST = 4.0
# of the variance, in means of 8 x 8 tiles; drawn faces have .32 at least; noise of single pixels one over the pixels of
# a tile, .016 at 64 x 64, and three times that where it was made smaller
LEAST_STRUCTURE = 0.2
TILES = 8


def can_be_processed(image: Tensor) -> Tensor:
    """Return which images show something, (B,) bool: no even surface, as of a covered lens, and no noise.

    Args:
        image: RGB images, uint8 (0 to 255) or floating point (0 to 1), (B, 3, H, W).
    """
    gray = image.float().mean(1) * (255.0 if image.is_floating_point() else 1.0)  # (B, H, W)
    variance = gray.flatten(1).var(1, correction=0)
    of_tiles = F.adaptive_avg_pool2d(gray[:, None], TILES).flatten(1).var(1, correction=0)
    return (variance >= LEAST_CONTRAST**2) & (of_tiles >= LEAST_STRUCTURE * variance)
