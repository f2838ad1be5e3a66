"""People by their names, across data sets that spell them in different ways."""

from collections.abc import Iterator

from datamodules.faces.folders import Face, identity_of


class People:
    """The first face of each person in each part of the data.

    Names are compared as `identity_of` spells them, without zeros before a number. Of names that two known sets give
    their files, the zeros count: 001 of FRLL is not 00001 of FERET.
    """

    def __init__(self) -> None:
        # by name, by the digits that count (0: none do), by part
        self._first: dict[str, dict[int, dict[str, Face]]] = {}

    def add(self, part: str, face: Face) -> None:
        """Note everybody in a face."""
        for identity in face.identities:
            by_digits = self._first.setdefault(identity_of(identity), {})
            by_digits.setdefault(_digits(face, identity), {}).setdefault(part, face)

    def alike(self, face: Face) -> Iterator[tuple[str, dict[str, Face]]]:
        """Yield everybody in a face, with the first faces that show the same person, by part."""
        for identity in sorted(face.identities):
            digits = _digits(face, identity)
            for other, first in self._first.get(identity_of(identity), {}).items():
                if digits == other or 0 in (digits, other):
                    yield identity, first


def _digits(face: Face, identity: str) -> int:
    return len(identity) if face.keeps_zeros else 0
