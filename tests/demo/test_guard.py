"""What stands in front of Gradio answers only the addresses that a page needs."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from eomt.demo import guard
from eomt.demo.guard import MOST_BYTES, Guard
from eomt.demo.room import Room

FUNCTIONS = (0, 3)
JOIN = "/gradio_api/queue/join"


def ask(
    folder: Path,
    path: str,
    method: str = "GET",
    body: bytes = b"",
    host: str = "127.0.0.1:7860",
    is_local: bool = True,
    **headers: str,
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status and headers of an answer, and the body that the application behind got."""
    sent: list[Any] = []
    got = b""

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        nonlocal got
        got = (await receive())["body"] if method == "POST" else b""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    parts = [{"type": "http.request", "body": body[:10], "more_body": True}]
    parts.append({"type": "http.request", "body": body[10:], "more_body": False})

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": host} | headers
    found = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": found}
    asyncio.run(Guard(behind, folder, is_local, FUNCTIONS)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), got


@pytest.mark.parametrize("path", ["/", "/config", "/theme.css", "/assets/index-1.js", "/gradio_api/queue/data"])
def test_what_a_page_needs_is_answered_with_headers_that_keep_it_here(path: str, tmp_path: Path) -> None:
    status, headers, _ = ask(tmp_path, path)
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/vibe-edit",
        "/gradio_api/mcp/sse",
        "/monitoring/summary",
        "/docs",
        "/login",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/gradio_api/file=https://example.org/image.png",
        "/gradio_api/file=main.py",
        "/gradio_api/file=",
        "/gradio_api/call/answer",
        "/gradio_api/run/answer",
    ],
)
def test_nothing_else_is_answered(path: str, tmp_path: Path) -> None:
    assert ask(tmp_path, path)[0] == 404
    assert ask(tmp_path, path, "POST", b"{}")[0] == 404
    assert ask(tmp_path, path, "DELETE")[0] == 404


def test_files_are_those_of_the_folder_alone(tmp_path: Path) -> None:
    folder, other = tmp_path / "demo", tmp_path / "demo_other"
    for place in (folder, other):
        place.mkdir()
        (place / "image.png").write_bytes(b"")
    (folder / "link.png").symlink_to(other / "image.png")
    assert ask(folder, f"/gradio_api/file={folder}/image.png")[0] == 200
    for path in (
        f"{other}/image.png",
        f"{folder}/../demo_other/image.png",
        f"{folder}/%2e%2e/demo_other/image.png",
        f"{folder}/link.png",
        f"{folder}/a\0b",
        str(folder),
    ):
        assert ask(folder, f"/gradio_api/file={path}")[0] == 404, path


def test_a_request_may_name_files_of_the_folder_alone(tmp_path: Path) -> None:
    def join(path: Any) -> tuple[int, bytes]:
        data = [[{"path": path, "meta": {"_type": "gradio.FileData"}}], 0.5]
        body = json.dumps({"data": data, "fn_index": 3}).encode()
        status, _, got = ask(tmp_path, JOIN, "POST", body)
        assert not got or got == body
        return status, got

    assert join(str(tmp_path / "image.png"))[0] == 200
    assert join(None)[0] == 200
    for path in ("/etc/passwd", "https://example.org/image.png", "main.py", f"{tmp_path}/../x", 3, ["/etc/passwd"]):
        assert join(path) == (400, b""), path


@pytest.mark.parametrize("number", [999, -1, 1, True, "0", 0.0, None, [0], 2**70])
def test_a_request_names_a_function_of_the_page(number: Any, tmp_path: Path) -> None:
    def join(body: Any) -> int:
        return ask(tmp_path, JOIN, "POST", json.dumps(body).encode())[0]

    assert join({"data": [], "fn_index": 0}) == 200
    assert join({"data": [], "fn_index": number}) == 400
    assert join({"data": []}) == join([0]) == join(0) == 400
    # only there does a number name a function
    assert ask(tmp_path, "/gradio_api/reset", "POST", b"{}")[0] == 200


def test_no_answer_is_made_where_there_is_no_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "Room", lambda folder: Room(folder, most_files=1))
    body = b'{"data": [], "fn_index": 0}'
    assert ask(tmp_path, JOIN, "POST", body)[0] == 200
    (tmp_path / "new").touch()
    assert ask(tmp_path, JOIN, "POST", body)[0] == 507
    assert ask(tmp_path, "/gradio_api/reset", "POST", b"{}")[0] == 200


def test_bodies_that_are_long_or_no_json_are_refused(tmp_path: Path) -> None:
    assert ask(tmp_path, "/gradio_api/queue/join", "POST", b"[" * (MOST_BYTES + 1))[0] == 413
    assert ask(tmp_path, "/gradio_api/queue/join", "POST", b"[" * 100_000)[0] == 400
    assert ask(tmp_path, "/gradio_api/queue/join", "POST", b"{")[0] == 400


def test_a_page_from_elsewhere_cannot_reach_it_by_a_name_of_its_own(tmp_path: Path) -> None:
    assert ask(tmp_path, "/", host="evil.example:7860")[0] == 421
    assert ask(tmp_path, "/", host="127.0.0.1.evil.example")[0] == 421
    assert ask(tmp_path, "/", host="localhost:7860")[0] == 200
    assert ask(tmp_path, "/", host="[::1]:7860")[0] == 200
    assert ask(tmp_path, "/", host="server.example", is_local=False)[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"origin": "http://localhost:7860", "host": "LOCALHOST:7860"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 403),
        ({"origin": "http://localhost:7860"}, 403),
        ({"origin": "http://127.0.0.1:7860.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"origin": "http://127.0.0.1:7860", "sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_a_page_of_another_site_sends_nothing(headers: dict[str, str], status: int, tmp_path: Path) -> None:
    for address in ("queue/join", "cancel", "reset"):
        assert ask(tmp_path, f"/gradio_api/{address}", "POST", b'{"fn_index": 0}', **headers)[0] == status, address
    # without a file it is refused by what it holds, and no sooner
    assert ask(tmp_path, "/gradio_api/upload", "POST", **headers)[0] == (403 if status == 403 else 400)
    # what is shown may be looked at from a link elsewhere
    assert ask(tmp_path, "/", **headers)[0] == 200
    for method in ("PUT", "DELETE", "PATCH"):
        assert ask(tmp_path, "/gradio_api/upload", method, **headers)[0] == (403 if status == 403 else 404)


def test_a_served_name_has_its_own_page(tmp_path: Path) -> None:
    def sent(origin: str) -> int:
        host = "server.example:7860"
        return ask(tmp_path, "/gradio_api/reset", "POST", host=host, is_local=False, origin=origin)[0]

    assert sent("http://server.example:7860") == 200
    assert sent("https://server.example:7860") == 200
    assert sent("http://server.example") == 403
    assert sent("http://evil.example:7860") == 403
