"""What SAM 2 found in an image, as a result."""

from collections.abc import Sequence

import numpy as np

from eomt.prompts import Prompts
from eomt.prompts.coordinates import tight_boxes
from eomt.results.masks import MasksResult
from eomt.tasks.prompted_answers import FoundObjects


def masks_result(
    found: FoundObjects, image: np.ndarray, class_names: Sequence[str], prompts: Prompts | None, name: str
) -> MasksResult:
    """Return the objects that were found in an image.

    Args:
        found: What was found.
        image: uint8 RGB `(H, W, 3)`.
        class_names: Names of all classes.
        prompts: What was asked; None where nothing was.
        name: Name of the image's file.
    """
    masks = found.masks
    boxes = tight_boxes(masks) * masks.flatten(1).any(1)[:, None] if len(masks) else masks.new_zeros(0, 4).float()
    scores, corners, logits = (part.float().cpu().numpy() for part in (found.scores, boxes, found.logits))
    known, labels = list(dict.fromkeys([*class_names, *found.labels])), list(found.labels)
    return MasksResult(image, masks.cpu().numpy(), scores, corners, labels, known, logits, prompts, name=name)
