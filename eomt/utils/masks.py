"""Masks of objects."""

import numpy as np
import torch
from torch import Tensor


def areas_of(masks: Tensor) -> Tensor:
    """Return the number of pixels of masks, bool `(N, H, W)`, int64 `(N,)`."""
    if masks.device.type != "cpu":
        return masks.flatten(1).count_nonzero(1)
    # at a twentieth of the time
    return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int64)
