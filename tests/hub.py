"""A stand-in of the hub on loopback: what its client needs to make a repository, to upload to it and to download."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40


class Hub:
    """Repositories by name: path in the repository -> content.

    Attributes:
        files: What was uploaded.
        private: Names of repositories that were made private.
        requests: Method and path of each request.
        refuses: Whether uploads are refused, as with a token that may only read.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.refuses = False
        self.objects: dict[str, bytes] = {}


@contextlib.contextmanager
def local_hub() -> Iterator[tuple[Hub, str]]:
    """The hub and its address, while the block runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def handle_any(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            path, content = self.path.partition("?")[0], self.body()
            parts = path.strip("/").split("/")
            address = f"http://{self.headers['Host']}"
            if hub.refuses:
                self.answer(403, {"error": "read-only"}, X_Error_Message="You have read-only access")
            elif path == "/api/repos/create":
                asked = json.loads(content)
                name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
                if hub.refuses:
                    self.answer(
                        403, {"error": "You have read-only access"}, X_Error_Message="You have read-only access"
                    )
                    return
                hub.files.setdefault(name, {})
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                self.answer(200, {"url": f"{address}/{name}"})
            elif path == "/api/whoami-v2":
                self.answer(200, {"name": "someone", "type": "user", "orgs": []})
            elif path == "/api/validate-yaml":
                self.answer(200, {"errors": [], "warnings": []})
            elif parts[:2] == ["api", "models"] and "preupload" in parts:
                files = json.loads(content)["files"]
                large = lambda file: file["path"].endswith(".safetensors")  # noqa: E731
                self.answer(
                    200,
                    {
                        "files": [
                            {"path": f["path"], "uploadMode": "lfs" if large(f) else "regular", "shouldIgnore": False}
                            for f in files
                        ]
                    },
                )
            elif path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(content)["objects"]
                actions = {"upload": {"href": f"{address}/lfs"}}
                self.answer(200, {"transfer": "basic", "objects": [o | {"actions": actions} for o in objects]})
            elif path == "/lfs":
                hub.objects[hashlib.sha256(content).hexdigest()] = content
                self.answer(200)
            elif parts[:2] == ["api", "models"] and "commit" in parts:
                stored = hub.files["/".join(parts[2:4])]
                for line in map(json.loads, content.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        stored[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        stored[value["path"]] = hub.objects[value["oid"]]
                url = f"{address}/{'/'.join(parts[2:4])}/commit/{COMMIT}"
                self.answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
            elif parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in hub.files:
                name = "/".join(parts[2:4])
                files = hub.files[name]
                if "tree" in parts:
                    self.answer(
                        200,
                        [
                            {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                            for p, c in files.items()
                        ],
                    )
                else:
                    siblings = [{"rfilename": found} for found in files]
                    self.answer(200, {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
            elif "resolve" in parts and "/".join(parts[4:]) in hub.files.get("/".join(parts[:2]), {}):
                found = hub.files["/".join(parts[:2])]["/".join(parts[4:])]
                etag = f'"{hashlib.sha256(found).hexdigest()}"'
                self.answer(200, found, ETag=etag, X_Repo_Commit=COMMIT, Content_Length=str(len(found)))
            elif path == "/":
                self.answer(200)
            else:
                self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

        do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
