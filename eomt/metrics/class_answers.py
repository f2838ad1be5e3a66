"""Whether a network that answers classes without prompts tells them, and images, apart."""

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassAnswers(Metric):
    """How alike the answers to different classes and different images are.

    Args:
        num_classes: Number C of classes.
    """

    full_state_update = False
    overlap: Tensor
    num_pairs: Tensor
    presence: Tensor
    squares: Tensor
    num_images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name, shape in (("overlap", ()), ("num_pairs", ()), ("presence", num_classes), ("squares", num_classes)):
            self.add_state(name, torch.zeros(shape), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, mask_logits: Tensor, object_logits: Tensor) -> None:
        """Add the answers to one image.

        Args:
            mask_logits: One mask for each class, before the classes that are absent are left out, `(C, h, w)`.
            object_logits: Log-odds that the image shows each class, `(C,)`.
        """
        found = (mask_logits > 0).flatten(1)
        # counted, since autocast would round a product of matrices
        shared = (found[:, None] & found).sum(2)
        area = shared.diagonal()
        union = area[:, None] + area - shared
        counted = (union > 0).triu(diagonal=1)
        self.overlap += (shared / union.clamp(min=1))[counted].sum()
        self.num_pairs += counted.sum()
        present = object_logits.float().sigmoid()
        self.presence += present
        self.squares += present.square()
        self.num_images += 1

    def compute(self) -> dict[str, float]:
        """Return two figures, nan where nothing was counted.

        Returns:
            `class_overlap`: mean IoU of the masks of two classes in an image; 1 if all classes get one mask.
            `presence_spread`: standard deviation over images of the probability that an image shows a class, mean over
            the classes; 0 if all images get one answer.
        """
        mean = self.presence / self.num_images
        variance = (self.squares / self.num_images - mean.square()).clamp(min=0)
        return {"class_overlap": float(self.overlap / self.num_pairs), "presence_spread": float(variance.sqrt().mean())}
