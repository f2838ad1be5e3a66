"""What of a file, besides the face, tells morphs from bona fide images."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from math import log2

from datamodules.common.reading import read_header
from datamodules.common.threads import map_in_threads
from datamodules.faces.folders import BONA_FIDE, MORPH, Face
from eomt.errors import listed

log = logging.getLogger("eomt")

# balanced accuracy that no property of a file may reach, beyond two standard errors of chance
LARGEST_ACCURACY = 0.6
# of an image's area, to a doubling
STEPS = 4


def warn_about_shortcuts(part: str, faces: Sequence[Face]) -> None:
    """Log a warning for each property of files that predicts the label, with the attacks where it does.

    Args:
        part: Name of the split or test set.
        faces: Its faces, of both classes.
    """
    labels, attacks = [face.label for face in faces], sorted({face.attack for face in faces if face.label == MORPH})
    by_format: dict[str, float] = {}
    for what, values in file_properties(faces).items():
        found = []
        for attack in attacks:
            chosen = [index for index, face in enumerate(faces) if face.label == BONA_FIDE or face.attack == attack]
            own_labels = [labels[index] for index in chosen]
            accuracy = max(balanced_accuracy([of_all[index] for index in chosen], own_labels) for of_all in values)
            numbers = Counter(own_labels)
            error = 0.25 * sum(1 / number for number in numbers.values()) ** 0.5
            if what == "format":
                by_format[attack] = accuracy
            # files of two formats differ in these, too
            elif what in ("compression", "metadata") and accuracy <= by_format[attack]:
                continue
            if accuracy == 1 or accuracy - 2 * error > LARGEST_ACCURACY:
                found.append(f"{attack} {accuracy:.0%}")
        if found:
            log.warning(
                "%s: the %s of a file alone tells morphs from bona fide images (balanced accuracy: %s): a network may "
                "learn that instead of morphs; make both classes alike",
                *(part, what, listed(found)),
            )


def file_properties(faces: Sequence[Face]) -> Mapping[str, Sequence[Sequence[str]]]:
    """Return format, size, compression and metadata of each face's file, as texts that are equal where these are.

    Sizes are given twice: as they are, and in steps of a fifth, for sets in which each image has a size of its own.
    Aspects of the compression are given one by one, and so is EXIF, for the others may vary.
    """
    headers = map_in_threads(lambda face: read_header(face.image), faces, "Comparing files")
    return {
        "format": [[f"{header.format} {header.mode}" for header in headers]],
        "image size": [
            [f"{header.height} x {header.width}" for header in headers],
            [f"{round(STEPS * log2(header.height * header.width))}" for header in headers],
        ],
        "compression": [list(aspect) for aspect in zip(*(header.compression for header in headers), strict=True)],
        "metadata": [
            [" ".join(header.metadata) for header in headers],
            ["exif" if "exif" in header.metadata else "" for header in headers],
        ],
    }


def balanced_accuracy(values: Sequence[str], labels: Sequence[int]) -> float:
    """Return how well values predict labels of 0 and 1, in [0, 1]: the mean of both classes' shares that are right.

    Each label is predicted by all others: the class in which its value is more frequent; where it is in both alike,
    half of the predictions are right. So values that occur once say nothing.
    """
    totals = Counter(labels)
    counts = Counter(zip(values, labels, strict=True))
    right = {0: 0.0, 1: 0.0}
    for (value, label), number in counts.items():
        own = (number - 1) / max(1, totals[label] - 1)
        other = counts[value, 1 - label] / max(1, totals[1 - label])
        right[label] += number * (1.0 if own > other else 0.5 if own == other else 0.0)
    return sum(right[label] / max(1, totals[label]) for label in right) / 2
