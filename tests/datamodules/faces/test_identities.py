"""Who is who, and what is a copy of what: spellings, folders, and files that were stored anew."""

import csv
import itertools
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from datamodules import MorphFaces
from datamodules.faces import copies
from datamodules.faces.copies import TOLERANCE, find_copies
from datamodules.faces.data_module import find_unlabeled_faces
from datamodules.faces.folders import BONA_FIDE, Face, find_labeled_faces, identity_of
from datamodules.faces.identity_splits import refuse_pretrained
from datamodules.faces.people import People
from eomt.errors import UserError
from tests.datamodules.faces.face_files import morph_faces, write_face, write_people, write_splits


@pytest.mark.parametrize(
    ("texts", "identity"),
    [
        (("41", "41.0", "41,0", "041", " 41 "), "41"),
        (("s05", "S05"), "s05"),
        (("000", "0.0"), "0"),
        (("Anna  B",), "anna b"),
    ],
)
def test_spellings_of_a_person_are_one(texts: tuple[str, ...], identity: str) -> None:
    """15.13: identities of a CSV are compared as raw text."""
    assert {identity_of(text) for text in texts} == {identity}


def test_different_people_stay_different() -> None:
    """15.13: what is no other spelling is not thrown together."""
    assert len({identity_of(text) for text in ("41", "410", "4.1", "41.5", "s41", "a41", "401")}) == 7


def write_pandas_table(folder: Path) -> Path:
    """Write a table as pandas does with a column of whole numbers that has blanks: those become 41.0."""
    rows = ["path,label,subject_a,subject_b"]
    for person in range(20):
        for photo in range(2):
            rows.append(f"{person}_{photo}.png,bonafide,{person:03d},")
            write_face(folder / f"{person}_{photo}.png", 100 * person + photo)
        other = person ^ 1
        rows.append(f"m{person}.png,morph,{person}.0,{other}.0")
        write_face(folder / f"m{person}.png", 100 * person + 50)
    rows.append("x.png,bonafide,nan,")
    rows.append("y.png,bonafide,nan,")
    for number, name in enumerate(("x", "y")):
        write_face(folder / f"{name}.png", 9000 + number)
    (folder / "faces.csv").write_text("\n".join(rows))
    return folder / "faces.csv"


def test_people_in_a_table_as_pandas_writes_it_are_on_one_side(tmp_path: Path) -> None:
    """15.13: 41, 41.0 and 041 are one person, and nan is nobody."""
    table = write_pandas_table(tmp_path)
    for split_seed in range(3):
        data = morph_faces(table, identity_pattern=None, split_seed=split_seed, val_fraction=0.3, test_fraction=0.3)
        sides: dict[str, set[str]] = {}
        for split in ("train", "val", "test"):
            for face in data.faces(split):
                for person in (int(text) for text in face.image.stem.lstrip("m").split("_")[:1] if text.isdigit()):
                    sides.setdefault(str(person), set()).add(split)
        assert all(len(side) == 1 for side in sides.values())
        nobody = {face.name for split in ("train", "val", "test") for face in data.faces(split) if not face.identities}
        assert nobody == {"x.png", "y.png"}


def test_a_given_split_with_two_spellings_of_a_person_is_refused(tmp_path: Path) -> None:
    """15.13: the same in a split that the table gives."""
    rows = "path,label,subject_a,split\n0.png,bonafide,S05,train\n1.png,bonafide,s05,val\n"
    for number in range(2):
        write_face(tmp_path / f"{number}.png", number)
    (tmp_path / "faces.csv").write_text(rows)
    with pytest.raises(UserError, match=r"1\.png: in val, shows s05, as does .*0\.png in train"):
        morph_faces(tmp_path / "faces.csv", identity_pattern=None).setup("fit")


def test_people_of_morphs_without_photos_are_said_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """15.13: most people of the morphs have no photo, without a word."""
    write_people(tmp_path, range(20))
    for file in list((tmp_path / "bonafide").iterdir()):
        file.rename(file.with_name(file.name.replace("id", "no")))
    with caplog.at_level(logging.WARNING, "eomt"):
        morph_faces(tmp_path, identity_pattern=r"(?:id|no)\d+", val_fraction=0.3, test_fraction=0.3).setup("fit")
    assert "20 of 20 people in morphs have no photo (id000, ...), photos show no000, no001, no002" in caplog.text


def test_folders_of_photos_are_people(tmp_path: Path) -> None:
    """15.13: `bonafide/person01/0.png` says who is seen."""
    for person in range(12):
        for photo in range(3):
            write_face(tmp_path / "bonafide" / f"person{person:02d}" / f"{photo}.png", 10 * person + photo)
        write_face(tmp_path / "morph" / "blend" / f"person{person:02d}_person{person ^ 1:02d}" / "0.png", 900 + person)
    by_folder = find_labeled_faces(tmp_path, None)
    assert all(len(face.identities) == 1 - face.label for face in by_folder)
    by_pattern = find_labeled_faces(tmp_path, r"person\d+")
    assert all(len(face.identities) == 1 + face.label for face in by_pattern)
    assert not any(face.identities for face in find_labeled_faces(tmp_path, ""))
    for pattern in (None, r"person\d+"):
        data = morph_faces(tmp_path, identity_pattern=pattern, val_fraction=0.25, test_fraction=0.25)
        sides: dict[str, set[str]] = {}
        for split in ("train", "val", "test"):
            for face in data.faces(split):
                if not face.label:
                    sides.setdefault(face.image.parent.name, set()).add(split)
        assert len(sides) == 12
        assert all(len(side) == 1 for side in sides.values())


def smooth_picture(number: int) -> Image.Image:
    """Return a picture with the spectrum of a photo: noise at 8 x 8 pixels, enlarged."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)


def test_copies_are_found_however_they_are_stored(tmp_path: Path) -> None:
    """15.13: pixels are compared, not bytes; mirrored ones, too."""
    files = []
    for number in range(6):
        picture = smooth_picture(number)
        for name, save in (("a.png", {}), ("b.bmp", {}), ("c.jpg", {"quality": 60}), ("d.webp", {"quality": 80})):
            files.append(tmp_path / f"{number}{name}")
            picture.save(files[-1], **save)
        files.append(tmp_path / f"{number}e.png")
        picture.resize((64, 64), Image.Resampling.BICUBIC).save(files[-1])
        files.append(tmp_path / f"{number}f.jpg")
        ImageOps.mirror(picture).save(files[-1], quality=60)
    found = find_copies(files)
    assert {file.name: first.name for file, first in found.items()} == {f.name: f"{f.name[0]}a.png" for f in files}


def test_pictures_further_apart_than_the_tolerance_are_no_copies(tmp_path: Path) -> None:
    """15.13: a bound on both sides."""
    files = []
    for number, gray in enumerate((100, 99 + int(TOLERANCE), 101 + 2 * int(TOLERANCE))):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", (32, 32), (gray,) * 3).save(files[-1])
    assert list(find_copies(files).values()) == [files[0], files[0], files[2]]


@pytest.mark.parametrize("quality", [95, 70])
def test_a_copy_that_was_compressed_anew_is_refused_in_a_given_split(tmp_path: Path, quality: int) -> None:
    """15.13: a JPEG of a training photo in test."""
    write_splits(tmp_path)
    smooth_picture(0).save(tmp_path / "train" / "bonafide" / "id001_9.png")
    smooth_picture(0).save(tmp_path / "test" / "bonafide" / "id020_9.jpg", quality=quality)
    with pytest.raises(UserError, match=r"id020_9\.jpg: in test, is a copy of .*id001_9\.png in train"):
        morph_faces(tmp_path).setup("fit")


@pytest.mark.parametrize("by", ["picture", "name"])
def test_faces_of_pre_training_that_are_tested_are_refused(tmp_path: Path, by: str) -> None:
    """15.13: faces of pre-training that are test faces."""
    write_splits(tmp_path / "data")
    write_face(tmp_path / "faces" / "id777_0.png", 7777)
    data = morph_faces(tmp_path / "data", pretraining_path=str(tmp_path / "faces"))
    data.setup("fit")
    photo = Image.open(tmp_path / "data" / "test" / "bonafide" / "id021_0.png")
    if by == "picture":
        photo.save(tmp_path / "faces" / "someone.webp", lossless=True)
    else:
        write_face(tmp_path / "faces" / "id021_8.png", 8888)
    with pytest.raises(UserError, match=r"pretraining_path: .*faces/.* shows whom .*id021_0\.png shows, which is test"):
        morph_faces(tmp_path / "data", pretraining_path=str(tmp_path / "faces")).setup("fit")


def write_numbered(path: Path, numbers: list[str]) -> Path:
    """Write a set in FRLL's layout whose people have these numbers."""
    for index, number in enumerate(numbers):
        write_face(path / "raw" / f"{number}_03.png", 500 + index)
        write_face(path / "morph_amsl" / f"{number}_{numbers[index - 1]}.png", 600 + index)
    return path


@pytest.mark.parametrize(("spelled", "delimiter"), [("001", ","), ("1", ","), ("1.0", ","), ("1,0", ";")])
def test_a_person_of_a_table_is_one_of_a_set_whose_files_have_zeros(
    tmp_path: Path, spelled: str, delimiter: str
) -> None:
    """15.13: a table's 001 became 1, and the same person's 001 in FRLL's file names did not."""
    frll = write_numbered(tmp_path / "frll", ["001", "002", "003"])
    rows = [["path", "label", "subject_a", "subject_b", "split"]]
    for split, people in {"train": ["7", spelled], "val": ["8", "9"]}.items():
        for index, person in enumerate(people):
            for label in ("bonafide", "morph"):
                name = f"{split}{index}{label}.png"
                write_face(tmp_path / name, 50 + len(rows))
                rows.append([name, label, person, people[index - 1] if label == "morph" else "", split])
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    data = MorphFaces(str(table), 2, 16, num_workers=0, test_paths={"frll": str(frll)})
    with pytest.raises(UserError, match=r"in test set frll, shows 001, as does .*train.*shared_identities: false"):
        data.setup("fit")


def numbered(number: str, keeps_zeros: bool) -> Face:
    return Face(number, Path(number), BONA_FIDE, identities=frozenset([number]), keeps_zeros=keeps_zeros)


def test_zeros_count_between_two_known_sets_alone() -> None:
    """15.13: 001 of FRLL is not 00001 of FERET, and both may be 1 in a table."""
    frll, feret, table = numbered("001", True), numbered("00001", True), numbered("1", False)
    for first in (frll, feret, table):
        people = People()
        people.add("train", first)
        alike = [face for face in (frll, feret, table) if list(people.alike(face))]
        assert alike == ([frll, feret, table] if first is table else [first, table])


def test_a_person_of_pre_training_is_one_of_a_set_whose_files_have_zeros(tmp_path: Path) -> None:
    """15.13: the brother of the same comparison."""
    write_face(tmp_path / "faces" / "p1.png", 1)
    (seen,) = find_unlabeled_faces(tmp_path / "faces", "pretraining_path", r"p(\d+)")
    tested = find_labeled_faces(write_numbered(tmp_path / "frll", ["001", "002"]), None)
    with pytest.raises(UserError, match=r"pretraining_path: .*p1\.png shows whom .*001.* shows"):
        refuse_pretrained([seen], tested)


def test_of_a_picture_that_is_there_often_one_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs were: half a million of a thousand files."""
    compared: list[int] = []
    tree = copies.cKDTree

    def counted(points: np.ndarray) -> Any:
        compared.append(len(points))
        return tree(points)

    monkeypatch.setattr(copies, "cKDTree", counted)
    first, other = (write_face(tmp_path / f"{number}.png", number, (64, 64)) for number in (1, 2))
    again = [tmp_path / f"again_{number}.png" for number in range(30)]
    for file in again:
        shutil.copy(other, file)
    assert find_copies([first, *again, other]) == {first: first} | dict.fromkeys([*again, other], again[0])
    # as they are, and mirrored
    assert compared == [4]


def test_copies_are_those_that_comparing_all_with_all_finds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files, pixels = [], []
    for number in range(60):
        # grays of which many lie near one another, on both sides of the tolerance
        picture = np.full((16, 16, 3), 100.0) + 3 * random.integers(0, 5) + random.normal(0, 3, (16, 16, 3))
        if number % 3 == 0:
            picture += np.linspace(0, 60, 16)[:, None] * random.choice([-1, 1])
        pixels.append(picture.astype(np.uint8))
        files.append(tmp_path / f"{number:02d}.png")
        Image.fromarray(pixels[-1]).save(files[-1])
    first = list(range(60))
    for _ in range(60):
        for one, other in itertools.product(range(60), repeat=2):
            as_it_is = pixels[other].astype(float)
            differences = [np.square(pixels[one] - side).mean() for side in (as_it_is, as_it_is[:, ::-1])]
            if min(differences) <= TOLERANCE**2:
                first[one] = first[other] = min(first[one], first[other])
    assert 3 < len(set(first)) < 40
    assert find_copies(files) == {files[one]: files[other] for one, other in enumerate(first)}
