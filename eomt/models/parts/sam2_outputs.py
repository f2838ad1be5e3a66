"""What SAM 2's encoder and decoder return."""

from typing import NamedTuple

import torch
from torch import Tensor


class SAM2Features(NamedTuple):
    """What the decoder needs of images; (h, w) is a sixteenth of the image. Can be kept and used again."""

    embedding: Tensor  # (B, D, h, w)
    stride_8: Tensor  # (B, D / 4, 2h, 2w)
    stride_4: Tensor  # (B, D / 8, 4h, 4w)

    def select(self, index: int | slice | list[int] | Tensor) -> "SAM2Features":
        """Return those of some images of the batch; a number takes one, without the batch dimension."""
        return SAM2Features(*(level[index] for level in self))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SAM2Features":
        """Return them on another device or in another dtype."""
        return SAM2Features(*(level.to(device=device, dtype=dtype) for level in self))


class SAM2Prediction(NamedTuple):
    """Answers to N prompts an image, in fp32; M is 3 with `multimask`, else 1; (h, w) is a quarter of the image."""

    mask_logits: Tensor  # (B, N, M, h, w)
    iou_scores: Tensor  # (B, N, M), predicted, 0 to 1
    object_logits: Tensor  # (B, N, 1), that there is an object
