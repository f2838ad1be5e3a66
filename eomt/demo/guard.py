"""What stands in front of Gradio: only the addresses that a page needs are answered, and nothing leads elsewhere.

Gradio answers far more than a page uses, among it addresses that fetch from the web and others that edit its program.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from eomt.demo.arriving import Arriving
from eomt.demo.room import Room
from eomt.demo.uploads import FORMATS
from eomt.demo.uploads import MOST_BYTES as MOST_OF_IMAGE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

GET = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|/(assets|static)/[\w.\-/@]+"
    r"|/gradio_api/(startup-events|queue/data|upload_progress|app_id|info|heartbeat/\w+|file=.+)"
)
POST = re.compile(r"/gradio_api/(queue/join|upload|cancel|reset)")
UPLOAD = "/gradio_api/upload"
JOIN = "/gradio_api/queue/join"
FILE = "/gradio_api/file="
# of a request that is no upload: names and settings
MOST_BYTES = 2**20
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
# of an upload: an image, and what stands around it
MOST_OF_UPLOAD = MOST_OF_IMAGE + 2**16
# what a browser says of a request that the page itself, or whoever typed the address, has made
OWN_SITES = ("same-origin", "none")
READING = ("GET", "HEAD")
# the line of an answer, by its status
WORDS = {
    403: "refused: sent by a page of another site",
    413: f"has too many bytes; at most {MOST_OF_IMAGE // 2**20} MiB can be sent",
    415: f"is no image that can be read; {FORMATS}",
    507: "there is no room for more at the moment; wait a minute and try again",
}
# the page's scripts stand in the page; what it loads comes from this server alone
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Guard:
    """An ASGI application around another.

    Args:
        app: The other.
        folder: The only one whose files are sent or taken.
        is_local: Whether only this machine is served: then no name but its own is answered, or a page from elsewhere
            could reach it by a name that it lets point here.
        functions: Numbers of those that a page may ask for; Gradio fails on any other.
    """

    def __init__(self, app: App, folder: Path, is_local: bool, functions: Iterable[int]) -> None:
        self.app, self.folder, self.is_local = app, folder.resolve(), is_local
        self.functions = frozenset(functions)
        self.room = Room(self.folder)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        status = self._refusal(scope)
        if status is not None:
            await _refuse(send, status)
        elif scope["method"] != "POST":
            await self._answer(scope, receive, send)
        elif scope["path"] == UPLOAD:
            await self._take(scope, receive, send)
        else:
            is_join = scope["path"] == JOIN
            body = await _whole(receive)
            status = 413 if body is None else self._refusal_of_body(body, is_join)
            # an answer is stored, too
            if status is None and is_join and not self.room.has(0):
                status = 507
            if status is None:
                await self._answer(scope, _again(body or b"", receive), send)
            else:
                await _refuse(send, status)

    async def _take(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an image on once all of it is here; what is refused is never stored."""
        length = _header(scope, b"content-length")
        size = int(length) if re.fullmatch(r"\d{1,15}", length) else MOST_OF_UPLOAD
        if size > MOST_OF_UPLOAD:
            await _refuse(send, 413)
            return
        if not self.room.has(size):
            # a browser reads an answer after it has sent all
            await _whole(receive, size, keeps=False)
            await _refuse(send, 507)
            return
        with self.room.awaiting(size):
            seen = Arriving(dict(scope["headers"]).get(b"content-type", b""))
            body = await _whole(receive, size, seen)
            seen.end()
            status = 413 if body is None else seen.status
            if status is None:
                await self._answer(scope, _again(body or b"", receive), send)
            else:
                await _refuse(send, status)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _refusal(self, scope: Message) -> int | None:
        """Return the status with which a request is refused by its address; None lets it through."""
        if self.is_local and _host(scope) not in LOOPBACK:
            return 421
        if scope["method"] not in READING and not _is_from_own_page(scope):
            return 403
        path = scope["path"]
        known = POST if scope["method"] == "POST" else GET
        if scope["method"] not in (*READING, "POST") or not known.fullmatch(path):
            return 404
        return 404 if path.startswith(FILE) and not self._is_inside(path.removeprefix(FILE)) else None

    def _refusal_of_body(self, body: bytes, is_join: bool) -> int | None:
        """Return 400 for what is no JSON, or names a file elsewhere (on this machine or in the web) or no function."""
        try:
            found = json.loads(body or b"null")
        except (ValueError, RecursionError):
            return 400
        if is_join and not self._is_function(found):
            return 400
        return None if all(isinstance(path, str) and self._is_inside(path) for path in _paths(found)) else 400

    def _is_function(self, asked: Any) -> bool:
        number = asked.get("fn_index") if isinstance(asked, dict) else None
        # a truth value would count as 0 or 1, and a text is read as a number
        return type(number) is int and number in self.functions

    def _is_inside(self, path: str) -> bool:
        try:
            # what is encoded twice does not get through either
            found = [Path(text).resolve() for text in (path, unquote(path))]
        except (OSError, ValueError, RuntimeError):
            return False
        return all(place.is_relative_to(self.folder) and place != self.folder for place in found)


def _paths(value: Any) -> Iterator[Any]:
    """Yield the paths of all files that a request names."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            if inner.get("path") is not None:
                yield inner["path"]
            waiting += inner.values()
        elif isinstance(inner, list):
            waiting += inner


def _host(scope: Message) -> str:
    """Return the name by which the server was called, without its port."""
    return re.sub(r":\d+$", "", _header(scope, b"host"))


def _header(scope: Message, name: bytes) -> str:
    """Return what a header holds, in small letters; of one that was given several times all, and "" without it."""
    return ",".join(value.decode("latin-1").lower() for key, value in scope["headers"] if key == name)


def _is_from_own_page(scope: Message) -> bool:
    """Return whether no header says that a page of another site sent a request; a program sends neither of them."""
    origin, site = _header(scope, b"origin"), _header(scope, b"sec-fetch-site")
    # a server in front may speak https, so the scheme is not compared
    is_own = not origin or re.sub(r"^https?://", "", origin) == _header(scope, b"host")
    return is_own and (not site or site in OWN_SITES)


async def _whole(
    receive: Receive, most: int = MOST_BYTES, seen: Arriving | None = None, keeps: bool = True
) -> bytes | None:
    """Return the body of a request; None where it is too long.

    Args:
        receive: Gives its pieces.
        most: Bytes that it may have.
        seen: Looks at each piece; once it refuses, no more is kept in memory.
        keeps: Whether any is kept.
    """
    body, size = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        piece = message.get("body", b"")
        size += len(piece)
        if size > most:
            return None
        if seen is not None:
            seen.write(piece)
            keeps = keeps and seen.status is None
        if keeps:
            body += piece
        else:
            body.clear()
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a function that gives a body once more, and then waits as the other does."""
    given = False

    async def found() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return found


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": f"{WORDS.get(status, 'not here')}\n".encode()})
