"""A real headless Chromium for tests of pages, which reaches this machine and nothing else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright

# Debian's; a test that needs it is skipped where there is none
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# no name but those of this machine is found, whatever the browser itself would ask for
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , " + " , ".join(f"EXCLUDE {name}" for name in LOOPBACK[:2])


@dataclass
class Visit:
    """An open page, and what went on in it.

    Attributes:
        page: Playwright's.
        errors: What the console and the page complained about.
        requests: Addresses of all requests but those of the page's own `data:` and `blob:`.
        outside: Those that were refused, as they leave this machine.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def screenshot(self, file: Path) -> Path:
        """Take a picture of the whole page."""
        self.page.screenshot(path=file, full_page=True)
        return file


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium, and close it at the end."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", OFFLINE]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, address: str, width: int = 1280, height: int = 800, dark: bool = False) -> Iterator[Visit]:
    """Open a page in a window of its own.

    Args:
        browser: From `chromium`.
        address: `file://` or one of this machine; anything else is refused and noted.
        width: Of the window; 390 is a phone's.
        height: Of the window.
        dark: Whether the page is asked for dark colors.
    """
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", accept_downloads=False
    )
    page = context.new_page()
    seen = Visit(page)

    def route(route: Route, request: Request) -> None:
        found = urlsplit(request.url)
        if found.scheme in ("data", "blob"):
            route.continue_()
            return
        seen.requests.append(request.url)
        if found.scheme == "file" or (found.hostname or "") in LOOPBACK:
            route.continue_()
        else:
            seen.outside.append(request.url)
            route.abort()

    def complain(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.errors.append(message.text)

    context.route("**/*", route)
    page.on("console", complain)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    try:
        page.goto(address)
        yield seen
    finally:
        context.close()
