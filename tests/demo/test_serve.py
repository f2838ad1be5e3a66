"""The server: its port, its files, and what it does not give away."""

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from eomt.demo import serve
from eomt.demo.serve import listening
from eomt.errors import UserError
from tests.demo_server import picture, running, segmentation_models


def test_a_taken_port_is_refused_and_the_next_one_taken_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
        with pytest.raises(UserError, match=f"port: {port} is taken"), listening("127.0.0.1", port):
            pass
        monkeypatch.setattr(serve, "FIRST_PORT", port)
        with listening("127.0.0.1", None) as other:
            assert other.getsockname()[1] > port
    with listening("127.0.0.1", port) as again:
        assert again.getsockname()[1] == port


def test_addresses_that_cannot_be_served_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for port in (-1, 65536):
        with pytest.raises(UserError, match="port"), listening("127.0.0.1", port):
            pass
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(UserError, match="host"), listening(host, None):
            pass

    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match="port: 80 may not be used"), listening("127.0.0.1", 80):
        pass


def test_a_server_gives_no_file_away_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    gradio = pytest.importorskip("gradio", reason="gradio is not installed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    secret = picture(tmp_path, "secret.png")

    def status(path: str, body: object = None) -> int:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)

    with running(segmentation_models()) as address:
        (folder,) = tmp_path.glob("eomt_demo_*")
        assert status("") == 200
        with urllib.request.urlopen(f"{address}config", timeout=60) as answer:
            config = json.load(answer)
        for path in ("/etc/passwd", str(secret), "main.py", f"{folder}/../secret.png", f"{folder}/%2e%2e/secret.png"):
            assert status(f"gradio_api/file={path}") in (403, 404), path
        for path in ("gradio_api/file=../../etc/passwd", "static/../../../../etc/passwd", "assets/%2e%2e/%2e%2e/x.py"):
            assert status(path) in (403, 404), path
        upload = next(part for part in config["components"] if part["props"].get("elem_id") == "upload")
        takes = next(part for part in config["dependencies"] if upload["id"] in part["inputs"])
        for path in ("/etc/passwd", str(secret), "https://example.org/image.png"):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            body = {"data": [file, "trained", "rba", 0.6], "fn_index": takes["id"], "session_hash": "abc"}
            assert status("gradio_api/queue/join", body) == 400, path
        for number in (999, -1, None):
            body = {"data": [], "fn_index": number, "session_hash": "abc"}
            assert status("gradio_api/queue/join", body) == 400, number
        assert not list(folder.rglob("*.png"))
        assert gradio.analytics.analytics_enabled() is False
    assert not folder.exists()
    assert "Traceback" not in capfd.readouterr().err
