"""Numbers of faces, and warnings of what would make figures better than they are."""

import logging
from collections.abc import Sequence
from pathlib import Path

from datamodules.faces.folders import BONA_FIDE, CLASS_NAMES, MORPH, Face

log = logging.getLogger("eomt")


def count_faces(faces: Sequence[Face]) -> dict[str, int]:
    """Return the number of "images", of each class, of "identities", and of images of "unknown identity"."""
    counts = {"images": len(faces)}
    for label, name in enumerate(CLASS_NAMES):
        counts[name] = sum(face.label == label for face in faces)
    counts["identities"] = len({identity for face in faces for identity in face.identities})
    counts["unknown identity"] = sum(not face.is_identified for face in faces)
    return counts


def warn_about(part: str, faces: Sequence[Face], sizes: Sequence[tuple[int, int]]) -> None:
    """Log a warning for unknown identities, and for a format or a size that tells the classes apart.

    Args:
        part: Name of the split or test set.
        faces: Its faces, of both classes.
        sizes: Height and width of their images.
    """
    unknown = [face for face in faces if not face.is_identified]
    if unknown:
        log.warning(
            "%s: who is seen in %d of %d images is unknown (%s, ...): people may be in training and in test, and "
            "figures better than for new people; give identity_pattern or a CSV with subject_a and subject_b",
            *(part, len(unknown), len(faces), unknown[0].name),
        )
    _warn_about_shortcut(part, "file format", faces, [face.image.suffix.lower() for face in faces])
    _warn_about_shortcut(part, "image size", faces, [f"{height} x {width}" for height, width in sizes])


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


def _warn_about_shortcut(part: str, what: str, faces: Sequence[Face], values: Sequence[str]) -> None:
    bona_fide, morph = (
        {value for face, value in zip(faces, values, strict=True) if face.label == label}
        for label in (BONA_FIDE, MORPH)
    )
    if bona_fide.isdisjoint(morph):
        log.warning(
            "%s: bona fide images and morphs have no %s in common (%s, ... and %s, ...): a network may learn that "
            "instead of morphs; make both classes alike",
            *(part, what, min(bona_fide), min(morph)),
        )
