"""The folder of a demo has a bounded size, and what is no image is never stored."""

import http.client
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eomt.demo import guard, room
from eomt.demo.room import Room
from tests.demo_server import picture, running, segmentation_models


def post(
    address: str, content: bytes, field: str = 'name="files"; filename="a.png"', times: int = 1
) -> tuple[int, str]:
    """Status and text of the answer to a file."""
    part = f"--b\r\nContent-Disposition: form-data; {field}\r\n\r\n".encode() + content + b"\r\n"
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    connection.request("POST", "/gradio_api/upload", part * times + b"--b--\r\n", headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def announce(address: str, size: int) -> int:
    """Status of the answer to the header of a long request, before any of it is sent."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    return connection.getresponse().status


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_oldest_files_that_nobody_waits_for_make_room(tmp_path: Path) -> None:
    found = Room(tmp_path, most_bytes=30, most_files=4, used=60)
    for name, age in (("old", 300), ("older", 400), ("new", 10)):
        path = tmp_path / name / "file"
        path.parent.mkdir()
        path.write_bytes(bytes(10))
        os.utime(path, (time.time() - age,) * 2)
    assert found.has(0)
    assert len(files(tmp_path)) == 3
    with found.awaiting(5):
        assert found.has(5)
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]
    assert not found.has(21)
    assert os.listdir(tmp_path) == ["new"]
    assert not Room(tmp_path, most_files=1).has(0)


def test_a_server_stores_images_alone_and_no_more_than_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(guard, "Room", lambda folder: Room(folder, most_bytes=200_000))
    image = picture(tmp_path).read_bytes()
    with running(segmentation_models()) as address:
        (folder,) = tmp_path.glob("eomt_demo_*")
        before = files(folder)
        for content in (b"", b"BA", b"<svg xmlns='http://www.w3.org/2000/svg'/>", bytes(100_000)):
            status, text = post(address, content)
            assert (status, text.count("\n")) == (415, 1), content[:10]
            assert "no image" in text
        assert post(address, image, times=2)[0] == 400
        assert post(address, image, field='name="files"')[0] == 400
        assert post(address, image, field='name="other"; filename="a.png"')[0] == 400
        assert announce(address, guard.MOST_OF_UPLOAD + 1) == 413
        assert files(folder) == before
        assert post(address, image)[0] == 200
        statuses = [post(address, image + bytes([number]) * 50_000)[0] for number in range(6)]
        assert statuses == [200] * 3 + [507] * 3
        for path in files(folder):
            os.utime(path, (time.time() - room.USED - 1,) * 2)
        assert post(address, image + bytes(100_000))[0] == 200
        assert sum(path.stat().st_size for path in files(folder)) <= 200_000
    assert "Traceback" not in capfd.readouterr().err
