"""Files are found whatever the case of their extension and their form of Unicode, and tables in any usual CSV."""

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.common.file_names import FileFinder, NameTable
from datamodules.common.pairs import find_pairs
from datamodules.common.reading import check_image, read_image
from datamodules.common.splits import read_split_record
from datamodules.common.tables import read_table
from datamodules.common.to_predict import find_images
from datamodules.questions.images import ImageFinder
from eomt.errors import UserError
from eomt.utils.images import RARE_EXTENSIONS
from tests.datamodules.common.image_files import make_mask, write_pair
from tests.datamodules.defects.defect_files import severstal, write_kaggle, write_supervisely
from tests.datamodules.faces.face_files import morph_faces, write_face

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "đèn/ảnh") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("stands", "asked"),
    [
        ("a/1.PNG", "a/1.png"),
        ("a/1.png", "a/1.PNG"),
        ("1.Jpeg", "1.jpeg"),
        (f"{COMPOSED}.png", f"{DECOMPOSED}.png"),
        (f"{DECOMPOSED}.JPG", f"{COMPOSED}.jpg"),
    ],
)
def test_a_file_is_found_by_any_spelling_of_its_name(stands: str, asked: str, tmp_path: Path) -> None:
    """15.28: it was missing though it stood there."""
    file = write_face(tmp_path / stands, 1)
    for find, name in ((FileFinder(tmp_path), asked), (FileFinder(Path("/")), str(tmp_path / asked))):
        assert find(name) == file
        assert find(f"{name}x") is None
        assert find("") is None
    assert ImageFinder(tmp_path)(asked) == file
    assert ImageFinder(tmp_path)(asked.rpartition(".")[0]) == file
    assert NameTable([stands])(asked) == stands


def test_just_the_same_name_goes_first(tmp_path: Path) -> None:
    files = [write_face(tmp_path / name, number) for number, name in enumerate(("1.png", "1.PNG"))]
    assert [FileFinder(tmp_path)(file.name) for file in files] == files
    assert NameTable(["1.png", "1.PNG"])("1.PNG") == "1.PNG"


@pytest.mark.parametrize("mask", ["1.PNG", f"{DECOMPOSED}.png"])
def test_images_and_masks_are_paired_by_any_spelling(mask: str, tmp_path: Path) -> None:
    """15.28"""
    image = "1.png" if mask == "1.PNG" else f"{COMPOSED}.png"
    write_pair(tmp_path, image, make_mask())
    (tmp_path / "masks" / mask).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "masks" / image).rename(tmp_path / "masks" / mask)
    (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks", None, None)
    assert (pair.image, pair.mask) == (tmp_path / "images" / image, tmp_path / "masks" / mask)


def test_suffixes_of_pairs_may_be_spelled_in_any_way(tmp_path: Path) -> None:
    """15.28"""
    there, asked = (unicodedata.normalize(form, "_nhãn.png") for form in ("NFD", "NFC"))
    write_pair(tmp_path, "1.png", make_mask())
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / f"1{there}")
    (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks", None, asked)
    assert pair.mask == tmp_path / "masks" / f"1{there}"


def test_a_recorded_split_names_files_in_any_spelling(tmp_path: Path) -> None:
    """15.28"""
    file = tmp_path / "splits.json"
    file.write_text(f'{{"train": ["{COMPOSED}.PNG"], "val": ["2.png"]}}')
    assert read_split_record(file, [f"{DECOMPOSED}.png", "2.png"])["train"] == [f"{DECOMPOSED}.png"]


def test_severstals_table_names_images_in_any_spelling(tmp_path: Path) -> None:
    """15.28"""
    write_kaggle(tmp_path)
    expected = severstal(tmp_path, val_fraction=0.3).split_record
    for file in (tmp_path / "train_images").iterdir():
        file.rename(file.with_suffix(".PNG"))
    table = tmp_path / "train.csv"
    table.write_text(table.read_text().replace(",", ";"))
    data = severstal(tmp_path, val_fraction=0.3)
    data.setup("fit")
    names = sorted(name.replace(".PNG", ".png") for part in data.split_record.values() for name in part)
    assert names == sorted(name for part in expected.values() for name in part)


def test_annotations_of_supervisely_belong_to_images_in_any_spelling(tmp_path: Path) -> None:
    """15.28"""
    write_supervisely(tmp_path, range(6))
    for file in (tmp_path / "img").iterdir():
        file.rename(file.with_suffix(".PNG"))
    data = severstal(tmp_path, val_fraction=0.3)
    data.setup("fit")
    assert all(name.endswith(".PNG") for part in data.split_record.values() for name in part)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_faces_names_them_in_any_spelling(delimiter: str, tmp_path: Path) -> None:
    """15.28"""
    lines = [delimiter.join(("path", "label", "split"))]
    there, asked = (name.split("/")[1] for name in (DECOMPOSED, COMPOSED))
    for split in ("train", "val"):
        for number, label in enumerate(("bonafide", "morph") * 2):
            write_face(tmp_path / f"{split}{number}{there}.PNG", 10 * number + len(split))
            lines.append(delimiter.join((f"{split}{number}{asked}.png", label, split)))
    (tmp_path / "faces.csv").write_text("\n".join(lines), encoding="utf-8")
    data = morph_faces(tmp_path / "faces.csv", identity_pattern=None)
    data.setup("fit")
    assert len(data.faces("train")) == 4


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_is_read_whatever_parts_its_cells(delimiter: str, tmp_path: Path) -> None:
    """15.28"""
    file = tmp_path / "a.csv"
    text = f'\ufeff image {delimiter}question\r\n\r\n1.png{delimiter}"red; blue, or\tgreen?" \r\n{delimiter}\r\n'
    file.write_text(text, encoding="utf-8")
    assert read_table(file) == (["image", "question"], [(3, ["1.png", "red; blue, or\tgreen?"])])


@pytest.mark.parametrize(("text", "message"), [('[{"a": 1}]', "is JSON"), (' {"a": 1}', "is JSON"), ("", "is empty")])
def test_what_is_no_table_is_told(text: str, message: str, tmp_path: Path) -> None:
    """15.25"""
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "a.csv")


def test_masks_of_any_case_belong_to_a_road_anomaly_set(tmp_path: Path) -> None:
    """15.28"""
    from datamodules.segmentation.road_anomaly_sets import find_anomaly_sets

    for kind in ("images", "labels_masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "set" / "images" / "1.jpg")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "set" / "labels_masks" / "1.PNG")
    (sample,) = find_anomaly_sets(tmp_path)["set"].samples
    assert sample.mask == tmp_path / "set" / "labels_masks" / "1.PNG"


@pytest.mark.parametrize("extension", RARE_EXTENSIONS)
def test_every_listed_extension_is_one_that_pillow_reads(extension: str) -> None:
    format_name = Image.registered_extensions()[extension]
    # the images of a stereo camera begin with a JPEG, as which they are opened
    assert format_name in Image.OPEN or format_name == "MPO"


@pytest.mark.parametrize(
    "extension",
    [
        *(".jfif", ".jpe", ".gif", ".avif", ".ppm", ".jp2", ".tga", ".pcx", ".JFIF"),
        *(".mpo", ".dds", ".im", ".vda", ".icb", ".vst", ".xbm"),
    ],
)
def test_images_are_found_and_read_whatever_their_ending(extension: str, tmp_path: Path) -> None:
    """15.21: they were passed over without a word."""
    format_name = Image.registered_extensions()[extension.lower()]
    if format_name not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {format_name}")
    file = tmp_path / f"one{extension}"
    Image.new("1" if format_name == "XBM" else "RGB", (16, 16), 1).save(file, format_name)
    assert find_images(tmp_path, "predict_path") == {file.name: file}
    assert read_image(file).size == (16, 16)
    assert check_image(file) == (16, 16)
    assert ImageFinder(tmp_path)("one") == file


def test_images_that_are_left_out_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """15.21"""
    write_face(tmp_path / "1.png", 1)
    (tmp_path / "no_ending").write_bytes((tmp_path / "1.png").read_bytes())
    (tmp_path / "raw.cr2").write_bytes(b"II*\0 and so on")
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic and so on")
    for name, content in (("notes.txt", b"BM"), ("empty", b""), (".hidden", b"\x89PNG"), ("web.svg", b"<svg/>")):
        (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="eomt"):
        assert list(find_images(tmp_path, "predict_path")) == ["1.png"]
    (message,) = caplog.messages
    assert "3 images are left out" in message
    assert message.endswith(": no_ending, phone.heic, raw.cr2")


@pytest.mark.parametrize(
    "format_name",
    sorted({"BMP", "PPM", "ICO", "ICNS", "EPS", "SPIDER", "DDS", "IM", "XBM", "TGA", "WEBP", "PCX", "SGI"}),
)
def test_what_pillow_opens_is_an_image_without_an_ending_too(
    format_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """15.21: content was looked at for some formats alone, and icons and documents not at all."""
    write_face(tmp_path / "1.png", 1)
    mode = {"SPIDER": "F", "XBM": "1"}.get(format_name, "RGB")
    for name in ("no_ending", "other.spi", "other.eps", "other.ico", "other.icns"):
        Image.new(mode, (32, 32), 1).save(tmp_path / name, format_name)
    (tmp_path / "table.h5").write_bytes(b"\x89HDF\r\n\x1a\n and so on")
    (tmp_path / "film.mpg").write_bytes(b"\0\0\1\xb3" + bytes(60))
    (tmp_path / "list.json").write_text('{"a": [1, 2]}')
    (tmp_path / "names.yaml").write_text("one: 1\ntwo: 2\n")
    with caplog.at_level(logging.WARNING, logger="eomt"):
        assert list(find_images(tmp_path, "predict_path")) == ["1.png"]
    (message,) = caplog.messages
    assert "5 images are left out" in message


def test_images_without_the_given_suffix_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """15.21"""
    for name in ("a_leftImg8bit.png", "b.png"):
        write_pair(tmp_path, name, make_mask())
    with caplog.at_level(logging.WARNING, logger="eomt"):
        (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks", "_leftImg8bit.png", "_leftImg8bit.png")
    assert pair.name == "a_leftImg8bit.png"
    assert len(caplog.messages) == 2
    assert all("1 images are left out" in text and text.endswith(": b.png") for text in caplog.messages)
