"""Splits in which no person is on two sides, and what they cost."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from scipy.cluster.hierarchy import DisjointSet

from datamodules.common.grouped_splits import content_keys
from datamodules.common.splits import SPLITS, seeded_split
from datamodules.faces.folders import BONA_FIDE, CLASS_NAMES, MORPH, Face
from eomt.errors import UserError, listed


@dataclass
class FaceSplit:
    """Faces of "train", "val" and "test", and how many were dropped, by reason."""

    faces: dict[str, list[Face]]
    dropped: Counter[str] = field(default_factory=Counter)


Divide = Callable[[list[str]], Mapping[str, Sequence[str]]]


def by_fractions(val_fraction: float, test_fraction: float, split_seed: int) -> Divide:
    """Divide names into "train", "val" and "test" by shares."""
    return lambda names: seeded_split(names, val_fraction, test_fraction, split_seed)


def by_folds(num_folds: int, fold: int, split_seed: int) -> Divide:
    """Divide names into folds: one of them is test, the next one validation, the others are train.

    Over all folds every name is in test once, and never was what a model was chosen by.
    """

    def divide(names: list[str]) -> dict[str, list[str]]:
        order = sorted(names, key=lambda name: hashlib.sha256(f"{split_seed}/{name}".encode()).hexdigest())
        parts = [order[start::num_folds] for start in range(num_folds)]
        test, val = fold, (fold + 1) % num_folds
        train = [name for index, part in enumerate(parts) if index not in (test, val) for name in part]
        return {"train": train, "val": parts[val], "test": parts[test]}

    return divide


def split_by_identity(faces: Sequence[Face], divide: Divide) -> FaceSplit:
    """Split people, give each its photos, and drop morphs of people on different sides.

    People whose photos have the same bytes are one person, and so are copies of a photo of nobody known. A morph goes
    where all its contributors are; copies of a morph have the contributors of all of them. People with photos, people
    in morphs only, and images of unknown people are each divided on their own.

    Raises:
        UserError: A bona fide photo and a morph have the same bytes.
    """
    contents = _first_copies(faces)
    together: DisjointSet = DisjointSet(contents)
    kinds: dict[str, str] = {}
    of_copies: dict[str, set[str]] = {}
    for face, content in zip(faces, contents, strict=True):
        people = {f"person {identity}" for identity in face.identities} or {content}
        for person in people:
            together.add(person)
            if face.label == BONA_FIDE:
                together.merge(person, content)
        of_copies.setdefault(content, set()).update(people)
    # the name of a set must not hang on the order in which it was joined
    root_of = {node: min(nodes) for nodes in together.subsets() for node in nodes}
    for face, content in zip(faces, contents, strict=True):
        for node in of_copies[content]:
            kind = "photographed" if face.label == BONA_FIDE else face.attack if node == content else "morphed only"
            root = root_of[node]
            kinds[root] = "photographed" if kinds.get(root) == "photographed" else kind
    split_of: dict[str, str] = {}
    for kind in sorted(set(kinds.values())):
        parts = divide(sorted(root for root, of_kind in kinds.items() if of_kind == kind))
        split_of |= {root: split for split, roots in parts.items() for root in roots}
    found = FaceSplit({split: [] for split in SPLITS})
    for face, content in zip(faces, contents, strict=True):
        splits = {split_of[root_of[node]] for node in of_copies[content]}
        if len(splits) > 1:
            found.dropped["morphs of people on different sides"] += 1
        else:
            found.faces[splits.pop()].append(face)
    return found


def _first_copies(faces: Sequence[Face]) -> list[str]:
    """Return for each face a node of its content: the name of the first file with the same bytes.

    Raises:
        UserError: Copies have different labels.
    """
    first: dict[str, Face] = {}
    nodes = []
    for face, key in zip(faces, content_keys([face.image for face in faces]), strict=True):
        other = first.setdefault(key, face)
        if other.label != face.label:
            raise UserError(
                f"{face.image}: {CLASS_NAMES[face.label]}, is a copy of {other.image}, {CLASS_NAMES[other.label]}; "
                "keep the one that is right"
            )
        nodes.append(f"file {other.name}")
    return nodes


def leave_out(split: FaceSplit, attack: str) -> FaceSplit:
    """Return a split in which one attack is met in test only, and no other one there.

    Raises:
        UserError: No morph has this attack.
    """
    attacks = sorted({face.attack for part in split.faces.values() for face in part if face.label == MORPH})
    if attack not in attacks:
        raise UserError(f"leave_out_attack: {attack!r} is not among the attacks {listed(attacks)}; give one of them")
    kept = {
        name: [face for face in part if face.label == BONA_FIDE or (face.attack == attack) == (name == "test")]
        for name, part in split.faces.items()
    }
    dropped = sum(map(len, split.faces.values())) - sum(map(len, kept.values()))
    return FaceSplit(kept, split.dropped + Counter({"morphs of an attack that is left out here": dropped}))


def refuse_leaks(
    splits: Mapping[str, Sequence[Face]], test_sets: Mapping[str, Sequence[Face]], shared_identities: bool
) -> None:
    """Check that nobody and nothing that is trained on or selected by is in another part.

    Test sets may overlap one another and the test split: one set of bona fide photos often serves many attacks.

    Args:
        splits: Faces of "train", "val" and "test".
        test_sets: Further sets by their names.
        shared_identities: Whether equal identities in `splits` and in a test set are one person.

    Raises:
        UserError: An identity, a path or a content occurs on two sides; both files are named.
    """
    parts = {**splits, **{f"test set {name}": faces for name, faces in test_sets.items()}}
    placed = [(part, face) for part, faces in parts.items() for face in faces]
    contents = content_keys([face.image for _, face in placed])
    people: dict[str, dict[str, Face]] = {}
    paths: dict[str, dict[str, Face]] = {}
    copies: dict[str, dict[str, Face]] = {}
    for (part, face), content in zip(placed, contents, strict=True):
        _refuse_crossing(paths.setdefault(str(face.image.resolve()), {}), part, face, "is the same file as")
        _refuse_crossing(copies.setdefault(content, {}), part, face, "is a copy of")
        if part in splits or shared_identities:
            for identity in face.identities:
                seen = people.setdefault(identity, {})
                _refuse_crossing(seen, part, face, f"shows {identity}, as does")


def _refuse_crossing(first: dict[str, Face], part: str, face: Face, how: str) -> None:
    """Note the first face of each part, and raise a UserError where one of them must not be together with this one."""
    first.setdefault(part, face)
    for other_part, other in first.items():
        if other_part != part and not {part, other_part}.isdisjoint({"train", "val"}):
            remedy = (
                "leave one of them out; if the two sets' identities are different people, set shared_identities: false"
                if how.startswith("shows") and "test set" in part
                else "what is measured must not be trained on, keep one of the two"
            )
            raise UserError(f"{face.image}: in {part}, {how} {other.image} in {other_part}; {remedy}")
