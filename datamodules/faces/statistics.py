"""Numbers of faces, and warnings of what would make figures better than they are."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.faces.folders import BONA_FIDE, CLASS_NAMES, MORPH, Face
from eomt.errors import listed

log = logging.getLogger("eomt")

# of a class or an attack in evaluation; none wrong of 20 leaves up to 17 %
FEWEST = 20


def count_faces(faces: Sequence[Face]) -> dict[str, int]:
    """Return the number of "images", of each class, of "identities", and of images of "unknown identity"."""
    counts = {"images": len(faces)}
    for label, name in enumerate(CLASS_NAMES):
        counts[name] = sum(face.label == label for face in faces)
    counts["identities"] = len({identity for face in faces for identity in face.identities})
    counts["unknown identity"] = sum(not face.is_identified for face in faces)
    return counts


def warn_about_unknown(part: str, faces: Sequence[Face]) -> None:
    """Log a warning for images of people whom nobody names.

    Args:
        part: Name of the split or test set.
        faces: Its faces.
    """
    unknown = [face for face in faces if not face.is_identified]
    if unknown:
        log.warning(
            "%s: who is seen in %d of %d images is unknown (%s, ...): people may be in training and in test, and "
            "figures better than for new people; give identity_pattern or a CSV with subject_a and subject_b",
            *(part, len(unknown), len(faces), unknown[0].name),
        )


def warn_about_few(part: str, faces: Sequence[Face]) -> None:
    """Log a warning where figures of a split or test set would rest on few bona fide images or few morphs of an attack.

    Args:
        part: Its name.
        faces: Its faces.
    """
    numbers = Counter(face.attack if face.label == MORPH else "bona fide" for face in faces)
    few = {name: number for name, number in sorted(numbers.items()) if number < FEWEST}
    if few:
        least = min(few.values())
        log.warning(
            "%s: few images (%s): with no error among %d, the true rate may still be %.0f %% (95 %% interval); more "
            "people or larger shares make figures surer",
            *(part, listed(f"{name} {number}" for name, number in few.items()), least),
            100 * (1 - 0.025 ** (1 / least)),
        )


def warn_about_strangers(path: Path, faces: Sequence[Face]) -> None:
    """Log a warning where most people in the morphs of a data set have no photo in it.

    Often the two are spelled differently, and then nothing keeps a person's photos and morphs together.
    """
    photographed, morphed = (
        {identity for face in faces if face.label == label for identity in face.identities}
        for label in (BONA_FIDE, MORPH)
    )
    strangers = sorted(morphed - photographed)
    if 2 * len(strangers) > len(morphed):
        log.warning(
            "%s: %d of %d people in morphs have no photo (%s, ...), photos show %s: of one person with two names, "
            "photos may be in training and morphs in test; spell names alike",
            *(path, len(strangers), len(morphed), strangers[0], ", ".join(sorted(photographed)[:3]) or "nobody known"),
        )
