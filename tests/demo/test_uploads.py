"""Images that are sent: bounded, and refused without a path of the server."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eomt.demo import uploads
from eomt.demo.uploads import read_upload
from eomt.errors import UserError
from tests.demo_server import picture


def refused(path: Path, folder: Path) -> str:
    with pytest.raises(UserError) as found:
        read_upload(path, folder)
    assert str(folder) not in str(found.value)
    return str(found.value)


def test_an_image_is_read_upright_and_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20), "red").save(path, exif=exif)
    found = read_upload(path, tmp_path)
    assert found.pixels.shape == (30, 20, 3)
    assert found.name == "photo.jpg"


def test_a_file_outside_of_the_folder_is_not_read(tmp_path: Path) -> None:
    inside = tmp_path / "sent"
    inside.mkdir()
    path = picture(tmp_path)
    (inside / "link.png").symlink_to(path)
    for given in (path, inside / ".." / path.name, inside / "link.png", Path("/etc/passwd"), inside):
        assert "not there" in refused(given, inside)


def test_too_many_bytes_or_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = picture(tmp_path)
    monkeypatch.setattr(uploads, "read", lambda *_: pytest.fail("was decoded"))
    monkeypatch.setattr(uploads, "MOST_PIXELS", 32 * 48 - 1)
    assert "megapixels" in refused(path, tmp_path)
    monkeypatch.setattr(uploads, "MOST_BYTES", 100)
    assert "MiB" in refused(path, tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html><script>1</script></html>", b"GIF89a", b"\x89PNG"],
)
def test_what_is_no_image_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    assert refused(path, tmp_path).startswith("file.png: ")


def test_archives_deep_and_torn_images_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.png", "w") as archive:
        archive.writestr("image.png", b"0" * 1000)
    assert "no image" in refused(tmp_path / "many.png", tmp_path)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    assert "more than 8 bits" in refused(tmp_path / "deep.png", tmp_path)
    whole = picture(tmp_path).read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    assert refused(tmp_path / "torn.png", tmp_path).startswith("torn.png: ")
