"""Properties of files that give morphs away."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.faces.shortcuts import balanced_accuracy
from tests.datamodules.faces.face_files import morph_faces, write_face, write_people, write_splits


def store_anew(file: Path, what: str) -> None:
    """Store a PNG file in another way."""
    image = Image.open(file).convert("RGB")
    file.unlink()
    if what == "format":
        image.save(file.with_suffix(".webp"), lossless=True)
    elif what == "image size":
        image.resize((26, 24)).save(file)
    else:
        image.save(file.with_suffix(".jpg"), quality=70)


def shortcut_warnings(path: Path, caplog: pytest.LogCaptureFixture, **arguments: Any) -> list[str]:
    with caplog.at_level(logging.WARNING, "eomt"):
        morph_faces(path, **arguments).setup("fit")
    return [record.getMessage() for record in caplog.records if "alone tells" in record.getMessage()]


@pytest.mark.parametrize("what", ["format", "image size"])
def test_what_tells_all_morphs_from_photos_is_said_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    write_splits(tmp_path)
    for file in list((tmp_path / "train" / "morph").rglob("*.png")):
        store_anew(file, what)
    (message,) = shortcut_warnings(tmp_path, caplog)
    assert f"train: the {what} of a file alone tells morphs" in message
    assert "blend 100%, warp 100%" in message


@pytest.mark.parametrize("what", ["format", "image size", "compression"])
def test_a_shortcut_of_one_attack_that_is_not_complete_is_said_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """15.17: only complete separation over all attacks was seen."""
    for index, split in enumerate(("train", "val")):
        write_people(tmp_path / split, range(100 * index, 100 * index + 40))
    if what == "compression":
        for file in list((tmp_path / "train").rglob("*.png")):
            Image.open(file).save(file.with_suffix(".jpg"), quality=95)
            file.unlink()
    # nine of ten morphs by warping, and of the photos one in twenty
    morphs = sorted((tmp_path / "train" / "morph" / "warp").iterdir())
    photos = sorted((tmp_path / "train" / "bonafide").iterdir())
    for file in (*morphs[: len(morphs) * 9 // 10], *photos[: len(photos) // 20]):
        store_anew(file, what)
    (message,) = shortcut_warnings(tmp_path, caplog)
    assert f"train: the {what} of a file alone tells morphs from bona fide images (balanced accuracy: warp 9" in message
    assert "blend" not in message


EXIF = Image.Exif()
EXIF[0x0131] = "a program"


@pytest.mark.parametrize(
    ("format_name", "of_photos", "of_morphs", "what"),
    [
        ("webp", {"lossless": True}, {"quality": 90}, "compression"),
        ("webp", {"lossless": True, "exif": EXIF}, {"quality": 90, "exif": EXIF}, "compression"),
        ("jpg", {"subsampling": 0}, {"subsampling": 2}, "compression"),
        ("jpg", {}, {"progressive": True}, "compression"),
        ("tif", {"compression": "tiff_lzw"}, {}, "compression"),
        ("jpg", {"exif": EXIF}, {}, "metadata"),
        ("png", {"exif": EXIF}, {}, "metadata"),
        ("png", {"dpi": (72, 72)}, {}, "metadata"),
    ],
)
def test_other_traces_of_how_files_were_made_are_said_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, format_name: str, of_photos: Any, of_morphs: Any, what: str
) -> None:
    """15.17: of compression only JPEG's tables were compared, and metadata not at all."""
    write_splits(tmp_path)
    for number, file in enumerate(sorted((tmp_path / "train").rglob("*.png"))):
        image = Image.open(file).convert("RGB")
        file.unlink()
        options = of_photos if "bonafide" in str(file) else of_morphs
        # a quality of each file's own must not hide the rest
        quality = {"quality": 70 + number % 29} if format_name == "jpg" else {}
        image.save(file.with_suffix(f".{format_name}"), **quality, **options)
    (message,) = shortcut_warnings(tmp_path, caplog)
    assert f"train: the {what} of a file alone tells morphs from bona fide images" in message


def test_files_of_one_kind_give_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """15.17: nor does a size of each file's own."""
    write_splits(tmp_path, people=8)
    for number, file in enumerate(sorted((tmp_path / "train").rglob("*.png"))):
        # 7 and 32 files have no common divisor, so each has another height
        write_face(file, 5000 + number, (24 + 7 * number % 32, 24))
    assert not shortcut_warnings(tmp_path, caplog)


def test_sizes_that_are_all_different_are_compared_roughly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """15.17: morphs of 40 to 56 pixels beside photos of 20 to 36, no two alike."""
    write_splits(tmp_path, people=8)
    for label, folder in enumerate(("bonafide", "morph")):
        for number, file in enumerate(sorted((tmp_path / "train" / folder).rglob("*.png"))):
            write_face(file, 5000 + 100 * label + number, (20 + 20 * label + number, 24))
    (message,) = shortcut_warnings(tmp_path, caplog)
    assert "image size" in message


def test_balanced_accuracy_follows_its_definition() -> None:
    """15.17: values by chance do no better than half, those that occur once say nothing."""
    assert balanced_accuracy("aabb", [0, 0, 1, 1]) == 1
    assert balanced_accuracy("abcd", [0, 0, 1, 1]) == 0.5
    # 3 of 4 photos and 5 of 5 morphs are on the right side
    assert balanced_accuracy("aaabbbbbb", [0] * 4 + [1] * 5) == pytest.approx((3 / 4 + 1) / 2)
    random = np.random.default_rng(0)
    values, labels = random.integers(0, 5, 2000).astype(str).tolist(), random.integers(0, 2, 2000).tolist()
    # by chance, with a deviation of 0.5 / sqrt(2000) = .011
    assert balanced_accuracy(values, labels) == pytest.approx(0.5, abs=0.04)
