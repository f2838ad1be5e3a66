"""Names of pictures: one for each image, whatever it is called."""

from pathlib import Path

import pytest
from PIL import Image

from callbacks.pictures.output import picture_path, save_picture
from eomt.utils.files import WRITING, fitting, write_file
from eomt.utils.images import IMAGE_EXTENSIONS


@pytest.mark.parametrize("extension", IMAGE_EXTENSIONS)
def test_two_images_never_share_a_picture(extension: str) -> None:
    """One of the two was lost, though both were counted."""
    first, long = f"a{extension}", f"{'x' * (255 - len(extension))}{extension}"
    names = {first, f"{first}.png", f"{first.upper()}.png", f"{first}.png.png", "a.png", "b/a.png"}
    names |= {long, f"y{long[1:]}", f"b/{long}"}
    assert len({picture_path(name) for name in names}) == len(names)
    assert picture_path("img_1.5x.png") == Path("img_1.5x.png")


LONGEST = ["\u8eca" * 80 + ".png", "x" * 250 + ".jpg", "x" * 251 + ".png", "\u8eca" * 83 + ".webp", "x." + "y" * 253]


@pytest.mark.parametrize("name", LONGEST)
def test_the_longest_name_that_an_image_can_have_has_a_picture(tmp_path: Path, name: str) -> None:
    """The picture's name, or that of the file before it was whole, was longer than any file's may be."""
    (tmp_path / name).touch()
    path = picture_path(f"day/{name}")
    save_picture(Image.new("L", (2, 2)), tmp_path / path)
    assert [found.name for found in (tmp_path / "day").iterdir()] == [path.name]
    assert path.name.startswith(name[:70])
    assert path.suffix == ".png"


@pytest.mark.parametrize("name", LONGEST)
def test_what_is_not_whole_yet_has_a_name_that_fits_too(tmp_path: Path, name: str) -> None:
    seen: list[str] = []

    def write(beside: Path) -> None:
        seen.append(beside.name)
        beside.write_text("whole")

    write_file(tmp_path / name, write)
    assert (tmp_path / name).read_text() == "whole"
    assert WRITING in seen[0]
    assert len(seen[0].encode()) <= 255


def test_a_name_that_fits_is_left_alone() -> None:
    for name in ("a.png", "x" * 251 + ".npy", "\u8eca" * 85):
        assert fitting(Path("b") / name) == Path("b") / name
