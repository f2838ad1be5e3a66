"""Splits in which no person is on two sides, and what they cost."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scipy.cluster.hierarchy import DisjointSet

from datamodules.common.grouped_splits import content_keys
from datamodules.common.splits import SPLITS, seeded_split
from datamodules.faces.copies import find_copies
from datamodules.faces.folders import BONA_FIDE, CLASS_NAMES, MORPH, Face
from datamodules.faces.pair_graph import divide_people, pair_weights
from datamodules.faces.people import People
from eomt.errors import UserError, listed, shortened


@dataclass
class FaceSplit:
    """Faces of "train", "val" and "test", and how many were dropped, by reason."""

    faces: dict[str, list[Face]]
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Division:
    """How people are divided.

    Args:
        sizes: Returns, for a number of people, how many of them each block gets.
        split_of: The split in which each block is.
        seed: Of the draw.
    """

    sizes: Callable[[int], Mapping[str, int]]
    split_of: Mapping[str, str]
    seed: int


def by_fractions(val_fraction: float, test_fraction: float, split_seed: int) -> Division:
    """Divide people into "train", "val" and "test" by shares."""

    def sizes(number: int) -> dict[str, int]:
        return {
            split: len(part)
            for split, part in seeded_split([str(n) for n in range(number)], val_fraction, test_fraction, 0).items()
        }

    return Division(sizes, {split: split for split in SPLITS}, split_seed)


def by_folds(num_folds: int, fold: int, split_seed: int) -> Division:
    """Divide people into folds: one of them is test, the next one validation, the others are train.

    Over all folds everybody is in test once, and never was what a model was chosen by.
    """
    return _folds(num_folds, {fold: "test", (fold + 1) % num_folds: "val"}, split_seed)


def by_validation(num_folds: int, fold: int, split_seed: int) -> Division:
    """Divide people into folds: one of them is validation, the others are train."""
    return _folds(num_folds, {fold: "val"}, split_seed)


def _folds(num_folds: int, held_out: Mapping[int, str], split_seed: int) -> Division:
    """Return folds of equal size, of which some are held out from train."""
    folds = [f"fold {index:03d}" for index in range(num_folds)]
    return Division(
        lambda number: {name: len(range(start, number, num_folds)) for start, name in enumerate(folds)},
        {name: held_out.get(index, "train") for index, name in enumerate(folds)},
        split_seed,
    )


def split_by_identity(faces: Sequence[Face], division: Division, copies: Mapping[Path, Path]) -> FaceSplit:
    """Split people, give each its photos, and drop morphs of people on different sides: few, see `divide_people`.

    People whose photos are copies are one person, and so are copies of a photo of nobody known. A morph goes where all
    its contributors are; copies of a morph have the contributors of all of them. People with photos, people in morphs
    only, and images of unknown people are each divided on their own.

    Args:
        faces: Of one data set.
        division: How people are divided.
        copies: For each file the first one that shows the same picture, see `copies_of`.
    """
    name_of: dict[Path, str] = {}
    for face in faces:
        name_of.setdefault(copies[face.image], f"file {face.name}")
    contents = [name_of[copies[face.image]] for face in faces]
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
    members: dict[str, list[str]] = {}
    for root, kind in kinds.items():
        members.setdefault(kind, []).append(root)
    of_kind = {kind: division.sizes(len(roots)) for kind, roots in members.items()}
    sizes = {block: {kind: number[block] for kind, number in of_kind.items()} for block in division.split_of}
    weights = pair_weights(
        {root_of[node] for node in of_copies[content]}
        for face, content in zip(faces, contents, strict=True)
        if face.label == MORPH
    )
    block_of = divide_people(sizes, members, weights, division.seed)
    split_of = {root: division.split_of[block] for root, block in block_of.items()}
    found = FaceSplit({split: [] for split in SPLITS})
    for face, content in zip(faces, contents, strict=True):
        splits = {split_of[root_of[node]] for node in of_copies[content]}
        if len(splits) > 1:
            found.dropped["morphs of people on different sides"] += 1
        else:
            found.faces[splits.pop()].append(face)
    return found


def copies_of(faces: Sequence[Face]) -> dict[Path, Path]:
    """Return for each file the first one of its class that shows the same picture.

    Raises:
        UserError: A bona fide photo and a morph have the same bytes.
    """
    first: dict[str, Face] = {}
    for face, key in zip(faces, content_keys([face.image for face in faces]), strict=True):
        other = first.setdefault(key, face)
        if other.label != face.label:
            raise UserError(
                f"{face.image}: {CLASS_NAMES[face.label]}, is a copy of {other.image}, {CLASS_NAMES[other.label]}; "
                "keep the one that is right"
            )
    copies: dict[Path, Path] = {}
    # a morph may look much like a photo of one of its people
    for label in (BONA_FIDE, MORPH):
        copies |= find_copies([face.image for face in faces if face.label == label])
    return copies


def leave_out(split: FaceSplit, attack: str) -> FaceSplit:
    """Return a split in which one attack is met in test only, and no other one there.

    Raises:
        UserError: No morph has this attack.
    """
    attacks = sorted({face.attack for part in split.faces.values() for face in part if face.label == MORPH})
    if attack not in attacks:
        raise UserError(
            f"leave_out_attack: {shortened(attack)!r} is not among the attacks {listed(attacks)}; give one of them"
        )
    kept = {
        name: [face for face in part if face.label == BONA_FIDE or (face.attack == attack) == (name == "test")]
        for name, part in split.faces.items()
    }
    dropped = sum(map(len, split.faces.values())) - sum(map(len, kept.values()))
    return FaceSplit(kept, split.dropped + Counter({"morphs of an attack that is left out here": dropped}))


def refuse_leaks(
    splits: Mapping[str, Sequence[Face]],
    test_sets: Mapping[str, Sequence[Face]],
    shared_identities: bool,
    copies: Mapping[Path, Path],
) -> None:
    """Check that nobody and nothing that is trained on or selected by is in another part.

    Test sets may overlap one another and the test split: one set of bona fide photos often serves many attacks.

    Args:
        splits: Faces of "train", "val" and "test".
        test_sets: Further sets by their names.
        shared_identities: Whether equal identities in `splits` and in a test set are one person.
        copies: For each file the first one that shows the same picture, see `copies_of`.

    Raises:
        UserError: An identity, a path or a content occurs on two sides; both files are named.
    """
    parts = {**splits, **{f"test set {name}": faces for name, faces in test_sets.items()}}
    placed = [(part, face) for part, faces in parts.items() for face in faces]
    people = People()
    paths: dict[str, dict[str, Face]] = {}
    pictures: dict[Path, dict[str, Face]] = {}
    for part, face in placed:
        for seen, how in (
            (paths.setdefault(str(face.image.resolve()), {}), "is the same file as"),
            (pictures.setdefault(copies[face.image], {}), "is a copy of"),
        ):
            _refuse_crossing(seen, part, face, how)
            seen.setdefault(part, face)
        if part in splits or shared_identities:
            for identity, seen in people.alike(face):
                _refuse_crossing(seen, part, face, f"shows {identity}, as does")
            people.add(part, face)


def refuse_pretrained(pretraining: Sequence[Face], tested: Sequence[Face]) -> None:
    """Check that no face that is tested was pre-trained on.

    Raises:
        UserError: A person or a picture occurs on both sides; both files are named.
    """
    copies = find_copies([face.image for face in (*pretraining, *tested)])
    pictures = {copies[face.image]: face for face in pretraining}
    people = People()
    for face in pretraining:
        people.add("pretraining", face)
    for face in tested:
        same = (seen["pretraining"] for _, seen in people.alike(face))
        if seen := pictures.get(copies[face.image]) or next(same, None):
            raise UserError(
                f"pretraining_path: {seen.image} shows whom {face.image} shows, which is tested; pre-train without it, "
                "or take it out of the test"
            )


def _refuse_crossing(first: dict[str, Face], part: str, face: Face, how: str) -> None:
    """Raise a UserError where the first face of another part must not be together with this one."""
    for other_part, other in first.items():
        if other_part != part and not {part, other_part}.isdisjoint({"train", "val"}):
            remedy = (
                "leave one of them out; if the two sets' identities are different people, set shared_identities: false"
                if how.startswith("shows") and "test set" in part
                else "what is measured must not be trained on, keep one of the two"
            )
            raise UserError(f"{face.image}: in {part}, {how} {other.image} in {other_part}; {remedy}")
