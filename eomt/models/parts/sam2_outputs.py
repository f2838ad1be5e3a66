"""What SAM 2's encoder and decoder return."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# values of `pool_levels` for each channel: three of each of the three levels
POOLED = 9


class SAM2Features(NamedTuple):
    """What the decoder needs of images; (h, w) is a sixteenth of the image. Can be kept and used again."""

    embedding: Tensor  # (B, D, h, w)
    stride_8: Tensor  # (B, D / 4, 2h, 2w)
    stride_4: Tensor  # (B, D / 8, 4h, 4w)
    pooled: Tensor  # (B, 9 D), what the whole image shows: see `pool_levels`; (B, 0) if no class prompts ask for it

    def select(self, index: int | slice | list[int] | Tensor) -> "SAM2Features":
        """Return those of some images of the batch; a number takes one, without the batch dimension."""
        return SAM2Features(*(level[index] for level in self))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SAM2Features":
        """Return them on another device or in another dtype."""
        return SAM2Features(*(level.to(device=device, dtype=dtype) for level in self))


def pool_levels(levels: Sequence[Tensor]) -> Tensor:
    """Return mean, maximum and deviation over all places of each level and channel, (B, 3 L D).

    Defects are small: the maximum finds one anywhere, and the fine levels see those that the coarse one averages away.

    Args:
        levels: L feature maps (B, D, h, w).
    """
    flat = [level.flatten(2) for level in levels]
    return torch.cat([part for x in flat for part in (x.mean(2), x.amax(2), x.std(2))], dim=1)


class SAM2Prediction(NamedTuple):
    """Answers to N prompts an image, in fp32; M is 3 with `multimask`, else 1; (h, w) is a quarter of the image."""

    mask_logits: Tensor  # (B, N, M, h, w)
    iou_scores: Tensor  # (B, N, M), predicted, 0 to 1
    object_logits: Tensor  # (B, N, 1), that there is an object


def worth_answering(prediction: SAM2Prediction) -> Tensor:
    """Return for each class whether a mask is expected to raise Kaggle's Dice, bool `(B, C)`.

    With probability p of the class and predicted IoU u of its mask, the mask has a Dice of 2u / (1 + u) where the class
    is there, and 0 where it is not; an empty answer has 1 where it is not.
    """
    present = prediction.object_logits[:, :, 0].sigmoid()
    iou = prediction.iou_scores[:, :, 0]
    return present * 2 * iou / (1 + iou) > 1 - present


def most_likely(prediction: SAM2Prediction) -> Tensor:
    """Return for each object the mask with the highest predicted IoU, logits `(B, N, h, w)`."""
    best = prediction.iou_scores.argmax(2)
    return prediction.mask_logits.take_along_dim(best[:, :, None, None, None], dim=2).squeeze(2)
