"""Time and memory of evaluation by AP of masks: `python -m benchmarks.average_precision [IMAGES]`.

Each image has 640 x 480 pixels, 100 detections and 8 true objects of 80 classes; ten images are drawn, and come again.
"""

import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eomt.metrics import MaskAveragePrecision
from eomt.utils.packed_masks import PackedMasks

HEIGHT, WIDTH = 480, 640
DETECTIONS, OBJECTS, CLASSES = 100, 8, 80
DRAWN = 10


def rectangles(random: np.random.Generator, number: int) -> Tensor:
    """Return masks, bool `(N, H, W)`, most of them small."""
    masks = torch.zeros(number, HEIGHT, WIDTH, dtype=torch.bool)
    for mask in masks:
        height, width = (1 + int(length * random.random() ** 2) for length in (HEIGHT, WIDTH))
        top, left = random.integers(HEIGHT - height + 1), random.integers(WIDTH - width + 1)
        mask[top : top + height, left : left + width] = True
    return masks


def image(random: np.random.Generator) -> tuple[Any, ...]:
    """Return what the metric takes of an image, in which every object is found beside what is wrong.

    Masks are packed, as those that post-processing returns, and those of data modules.
    """
    true_masks, true_labels = rectangles(random, OBJECTS), torch.from_numpy(random.integers(0, CLASSES, OBJECTS))
    masks, labels = rectangles(random, DETECTIONS), torch.from_numpy(random.integers(0, CLASSES, DETECTIONS))
    masks[:OBJECTS], labels[:OBJECTS] = true_masks, true_labels
    scores = torch.from_numpy(random.random(DETECTIONS))
    crowds = torch.zeros(OBJECTS, dtype=torch.bool)
    return PackedMasks.of(masks), scores, labels, PackedMasks.of(true_masks), true_labels, crowds


def main() -> None:
    """Measure and print."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    images = [image(random) for _ in range(DRAWN)]
    metric = MaskAveragePrecision(CLASSES)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for index in range(number):
        metric.update(*images[index % DRAWN])
    updated = time.process_time()
    metric.compute()
    computed, after = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = sum(rows.numel() * rows.element_size() for rows in metric.detections)
    print(f"{number} images: update {updated - start:.1f} s, compute {computed - updated:.1f} s of CPU")
    print(f"state {state / 1e6:.1f} MB, peak resident memory +{(after - before) / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
