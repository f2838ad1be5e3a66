"""The pages in a real Chromium: what is sent becomes a picture, what cannot be used a message, and nothing leaves."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Page

from tests.browser import Visit, chromium, needs_chromium, visit
from tests.demo_server import picture, running, segmentation_models

pytestmark = needs_chromium

# of Gradio's own client, when a stream ends
KNOWN = {"Method not implemented."}
SECONDS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def send(page: Page, path: Path) -> None:
    page.wait_for_selector("#upload input[type=file]", state="attached", timeout=SECONDS)
    page.set_input_files("#upload input[type=file]", path)


def pixels_of(page: Page, selector: str) -> np.ndarray:
    """The picture that the browser shows."""
    found = page.wait_for_selector(f"{selector} img", timeout=SECONDS)
    assert found is not None
    page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=found)
    encoded = page.evaluate(
        """image => { const c = document.createElement('canvas'); c.width = image.naturalWidth;
        c.height = image.naturalHeight; const g = c.getContext('2d'); g.drawImage(image, 0, 0);
        return [c.height, c.width, Array.from(g.getImageData(0, 0, c.width, c.height).data)] }""",
        found,
    )
    height, width, values = encoded
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def require_quiet(seen: Visit) -> None:
    """Nothing was asked of other machines, and the page complained of nothing."""
    assert seen.outside == []
    assert set(seen.errors) <= KNOWN


def test_an_image_that_is_sent_becomes_an_overlay_and_a_bad_one_a_message(browser: Browser, tmp_path: Path) -> None:
    image = picture(tmp_path)
    bad = tmp_path / "bad.png"
    bad.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    with running(segmentation_models()) as address, visit(browser, address) as seen:
        send(seen.page, image)
        shown = pixels_of(seen.page, "#picture")
        plain = np.asarray(Image.open(image).convert("RGB").resize(shown.shape[1::-1], Image.Resampling.NEAREST))
        assert np.abs(shown.astype(int) - plain).mean() > 10
        assert "<b>car</b>" in seen.page.inner_text("#legend")
        seen.page.click("#upload button[aria-label='Clear']")
        seen.page.wait_for_selector(".refusal")
        send(seen.page, bad)
        seen.page.wait_for_function("document.querySelector('.refusal')?.textContent.includes('bad.png')")
        assert "is no image" in seen.page.inner_text("#message")
        assert str(tmp_path) not in seen.page.content()
        assert "eomt_demo" not in seen.page.inner_text("#message")
        require_quiet(seen)
