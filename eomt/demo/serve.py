"""A page on a port of this machine, until it is stopped."""

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eomt.demo.guard import Guard
from eomt.demo.models import Models
from eomt.demo.uploads import MOST_BYTES
from eomt.errors import UserError

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("eomt")

FIRST_PORT = 7860
# after the first, where no port is given
MOST_PORTS = 100
LOCAL = ("127.0.0.1", "localhost", "::1")
# seconds that an open page may keep the server from ending
PATIENCE = 1
# of pages that Gradio remembers
MOST_SESSIONS = 100
# Gradio reads them where it is loaded
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_SHARE": "False"}


@contextmanager
def server(models: Models, host: str, port: int | None) -> Iterator[tuple["uvicorn.Server", socket.socket, str]]:
    """Give a server of the page of a model, the socket for its `run`, and its address; its files go with it.

    Args:
        models: The model.
        host: Address of this machine that is served: 127.0.0.1 is reached from this machine alone.
        port: Of that address; None takes the first that is free, from 7860 on.

    Raises:
        UserError: If Gradio is not installed, the address cannot be served, or there is no page for the model.
    """
    with tempfile.TemporaryDirectory(prefix="eomt_demo_") as name, listening(host, port) as found:
        folder = Path(name).resolve()
        os.environ.update({**SETTINGS, "GRADIO_TEMP_DIR": str(folder)})
        app = _app(models, folder, host in LOCAL)
        import uvicorn

        # its log would mix with this one, and says nothing that is not said here
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=PATIENCE, server_header=False, ws="none"
        )
        shown = f"[{host}]" if ":" in host else host
        yield uvicorn.Server(config), found, f"http://{shown}:{found.getsockname()[1]}/"


@contextmanager
def listening(host: str, port: int | None) -> Iterator[socket.socket]:
    """Give a socket that is bound to an address and a port.

    Raises:
        UserError: If it cannot be.
    """
    if port is not None and not 0 <= port <= 65535:
        raise UserError(f"port: {port}; must be from 1 to 65535, or 0 for any that is free")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as found:
        # else a port stays taken for a minute after the last page was closed
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(found, host, range(FIRST_PORT, FIRST_PORT + MOST_PORTS) if port is None else range(port, port + 1))
        yield found


def _bind(found: socket.socket, host: str, ports: range) -> None:
    for port in ports:
        try:
            found.bind((host, port))
            # of two that were bound at once, one may not listen
            found.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port != ports[-1]:
                continue
            raise _refusal(error, host, port) from error
        return


def _refusal(error: OSError, host: str, port: int) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port: {port} is taken; give another, or leave it out for the next that is free")
    if error.errno in (errno.EACCES, errno.EPERM):
        return UserError(f"port: {port} may not be used by you ({error.strerror}); give one above 1023")
    return UserError(f"host: {host!r} is no address of this machine ({error.strerror}); give 127.0.0.1")


def _app(models: Models, folder: Path, is_local: bool) -> Any:
    """Return the application that answers the browser."""
    try:
        import gradio
        from fastapi import FastAPI
    except ImportError as error:
        raise UserError("demo: Gradio is not installed; pip install -e '.[demo]'") from error
    from eomt.demo.pages.of_predictors import page_of
    from eomt.demo.pages.page import CSS, theme

    page = page_of(models, folder)
    blocks = page.blocks()
    blocks.state_session_capacity = MOST_SESSIONS
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None, docs_url=None, redoc_url=None),
        blocks,
        path="/",
        allowed_paths=[],
        show_error=False,
        max_file_size=MOST_BYTES,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
        footer_links=[],
        theme=theme(),
        css=CSS,
        head=f"<script>{page.script}</script>" if page.script else None,
    )
    # Gradio looks at the paths of uploads only where it was launched, and this is how it tells
    blocks.has_launched = True
    return Guard(app, folder, is_local, blocks.fns)


def serve(models: Models, host: str, port: int | None) -> None:
    """Show the page of a model until Ctrl-C.

    Raises:
        UserError: See `server`.
    """
    with server(models, host, port) as (found, bound, address):
        log.info("Open %s in a browser; Ctrl-C ends it", address)
        if host not in LOCAL:
            log.warning("host: anybody who reaches %s can use this page; there is no password", host)
        found.run(sockets=[bound])
