"""What the queries of a mask classification network say of an image: its objects, or its segments.

Both follow the code of EoMT's authors, of which `transformers.EomtImageProcessor` differs where it is said. Plain
tensors: networks in PyTorch and exported graphs share them.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from eomt.utils.masks import areas_of
from eomt.utils.packed_masks import NOTHING, PackedMasks
from eomt.utils.windows import fitting_size

# of masks that are held at the size of an image at once, in all their pixels
MASK_PIXELS = 2**24


class Instances(NamedTuple):
    """N objects of an image, the surest first; they may overlap."""

    masks: PackedMasks
    labels: Tensor  # int64 (N,), class ids
    scores: Tensor  # fp32 (N,), 0 to 1

    def above(self, threshold: float) -> "Instances":
        """Return the objects with a score of at least a threshold."""
        kept = self.scores >= threshold
        return Instances(self.masks.where(kept), self.labels[kept], self.scores[kept])


class Segments(NamedTuple):
    """N segments of an image, which do not overlap."""

    segment_map: Tensor  # int32 (H, W): 0 where there is no segment, else its number + 1
    labels: Tensor  # int64 (N,), class ids
    scores: Tensor  # fp32 (N,), 0 to 1

    def above(self, threshold: float) -> Instances:
        """Return the segments with a score of at least a threshold, as objects."""
        kept = self.scores >= threshold
        numbers = self.segment_map.cpu().numpy()
        parts = [
            NOTHING if box is None else (box[0].start, box[1].start, numbers[box] == number)
            for number, box in enumerate(ndimage.find_objects(numbers, len(kept)), start=1)
        ]
        masks = PackedMasks.pack(parts, (numbers.shape[0], numbers.shape[1])).where(kept)
        return Instances(masks, self.labels[kept], self.scores[kept])


@torch.no_grad()
def find_instances(
    mask_logits: Tensor,
    class_logits: Tensor,
    window: tuple[int, int],
    size: tuple[int, int],
    max_detections: int = 100,
    threshold: float = 0.0,
) -> Instances:
    """Return the objects that queries found.

    Of all pairs of query and class, those with the highest probability of the class are taken; the score is that times
    the mean probability of the mask's pixels. A query may answer as two classes. transformers takes the likeliest
    class of each query, which is the same for a threshold of one half or more. Empty masks are left out.

    Args:
        mask_logits: `(Q, h, w)`, of the image fitted into a window.
        class_logits: `(Q, C + 1)`, the last one "no object".
        window: Height and width of the window.
        size: Height and width of the image.
        max_detections: The most objects.
        threshold: The least score.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    likeliest, pairs = probabilities.flatten().topk(min(max_detections, probabilities.numel()))
    # a score is at most the probability of its class, so that no mask below the threshold is looked at
    likeliest, pairs = likeliest[likeliest >= threshold], pairs[likeliest >= threshold]
    queries, place = (pairs // probabilities.shape[1]).unique(return_inverse=True)
    masks = []
    certainty = likeliest.new_zeros(len(queries))
    for part, logits in full_size_masks(mask_logits, queries, window, size):
        is_inside = logits > 0
        masks.append(PackedMasks.of(is_inside))
        # a product with the mask would take three times as long on a CPU
        inside = F.threshold(logits.sigmoid_(), 0.5, 0.0, inplace=True).sum((1, 2))
        # of an empty mask 0
        certainty[part] = inside / (areas_of(is_inside) + 1e-6)
    scores, order = (likeliest * certainty[place]).sort(descending=True, stable=True)
    kept = (scores >= threshold) & (certainty[place[order]] > 0)
    order = order[kept]
    found = PackedMasks.joined(masks, size).where(place[order])
    return Instances(found, pairs[order] % probabilities.shape[1], scores[kept])


@torch.no_grad()
def find_segments(
    mask_logits: Tensor,
    class_logits: Tensor,
    window: tuple[int, int],
    size: tuple[int, int],
    stuff_classes: Collection[int] = (),
    threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> Segments:
    """Return the segments that queries found: of each kind of stuff one, and one for each thing.

    Queries whose likeliest class is above a threshold compete for the pixels by class probability times mask
    probability. A query that gets too small a share of its own mask (probability of at least one half) is left out;
    the others keep what they got of it. transformers wants more than that share, the authors as much.

    Args:
        mask_logits: `(Q, h, w)`, of the image fitted into a window.
        class_logits: `(Q, C + 1)`, the last one "no object".
        window: Height and width of the window.
        size: Height and width of the image.
        stuff_classes: Class ids of stuff, whose queries make one segment; its score is that of the first.
        threshold: The probability that the class of a query must exceed.
        overlap_threshold: The least area that a query gets, as a share of its own mask.
    """
    confidence, labels = class_logits.float().softmax(-1).max(-1)
    queries = ((labels != class_logits.shape[1] - 1) & (confidence > threshold)).nonzero()[:, 0]
    confidence, labels = confidence[queries], labels[queries]
    best = confidence.new_zeros(size)
    owner = torch.zeros(size, dtype=torch.int64, device=labels.device)
    is_inside = torch.zeros(size, dtype=torch.bool, device=labels.device)
    own_area = torch.zeros_like(labels)
    for part, logits in full_size_masks(mask_logits, queries, window, size):
        probabilities = logits.sigmoid_()
        inside = probabilities >= 0.5
        own_area[part] = areas_of(inside)
        values, index = probabilities.mul_(confidence[part, None, None]).max(0)
        better = values > best
        best[better] = values[better]
        owner[better] = index[better] + part.start
        is_inside[better] = inside.gather(0, index[None])[0][better]

    count = len(queries)
    got = owner.flatten().bincount(minlength=count)[:count] if count else own_area
    final = owner[is_inside].bincount(minlength=count)[:count] if count else own_area
    numbers: list[int] = []
    first: list[int] = []
    of_stuff: dict[int, int] = {}
    areas = zip(labels.tolist(), own_area.tolist(), got.tolist(), final.tolist(), strict=True)
    for query, (label, own, won, left) in enumerate(areas):
        number = 0
        if own and left and won / own >= overlap_threshold:
            number = of_stuff.get(label, len(first) + 1)
            if number > len(first):
                first.append(query)
            if label in stuff_classes:
                of_stuff[label] = number
        numbers.append(number)
    number_of = torch.tensor([*numbers, 0], dtype=torch.int32, device=labels.device)
    kept = torch.tensor(first, dtype=torch.int64, device=labels.device)
    return Segments(number_of[owner] * is_inside, labels[kept], confidence[kept])


def full_size_masks(
    mask_logits: Tensor, queries: Tensor, window: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[slice, Tensor]]:
    """Yield mask logits at the size of an image, a few at a time.

    They are enlarged to the window, the part that shows the image is cut out, and that is resized to the image.

    Args:
        mask_logits: `(Q, h, w)`.
        queries: Which masks, int64 `(N,)`.
        window: Height and width of the window.
        size: Height and width of the image.

    Yields:
        Which of the N masks, and their logits `(n, H, W)`, fp32.
    """
    height, width = fitting_size(size, window)
    at_once = max(1, MASK_PIXELS // max(window[0] * window[1], size[0] * size[1]))
    for start in range(0, len(queries), at_once):
        part = slice(start, min(start + at_once, len(queries)))
        logits = mask_logits[queries[part]].float()[None]
        logits = F.interpolate(logits, window, mode="bilinear")[..., :height, :width]
        # at the same size it would change nothing, and take as long
        logits = logits if (height, width) == size else F.interpolate(logits, size, mode="bilinear")
        yield part, logits[0]
