"""The pages in a real Chromium: what is sent becomes a picture, what cannot be used a message, and nothing leaves."""

import base64
import io
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from playwright.sync_api import Browser, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.browser import Visit, chromium, needs_chromium, visit
from tests.demo_server import picture, prompted_models, running, segmentation_models

pytestmark = needs_chromium

# of Gradio's own client, when a stream ends
KNOWN = {"Method not implemented."}
SECONDS = 30_000


def twice(test: Callable[..., None]) -> Callable[..., None]:
    """Give a test a second try after a time-out: Gradio's page loses what it was sent, now and then."""

    @wraps(test)
    def run(browser: Browser, tmp_path: Path) -> None:
        try:
            test(browser, tmp_path)
        except PlaywrightTimeoutError:
            test(browser, tmp_path)

    return run


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
        c.height = image.naturalHeight; c.getContext('2d').drawImage(image, 0, 0); return c.toDataURL('image/png') }""",
        found,
    )
    with Image.open(io.BytesIO(base64.b64decode(encoded.partition(",")[2]))) as drawn:
        return np.asarray(drawn.convert("RGB"))


def require_quiet(seen: Visit) -> None:
    """Nothing was asked of other machines, and the page complained of nothing."""
    assert seen.outside == []
    assert set(seen.errors) <= KNOWN


@twice
def test_an_image_that_is_sent_becomes_an_overlay_and_a_bad_one_a_message(browser: Browser, tmp_path: Path) -> None:
    image = picture(tmp_path)
    bad, torn = tmp_path / "bad.png", tmp_path / "torn.png"
    bad.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    # it begins as an image does, so that it is stored, and then it cannot be decoded
    torn.write_bytes(image.read_bytes()[:1000])
    with running(segmentation_models()) as address, visit(browser, address) as seen:
        send(seen.page, image)
        shown = pixels_of(seen.page, "#picture")
        plain = np.asarray(Image.open(image).convert("RGB").resize(shown.shape[1::-1], Image.Resampling.NEAREST))
        assert np.abs(shown.astype(int) - plain).mean() > 10
        assert "<b>car</b>" in seen.page.inner_text("#legend")
        seen.page.click("#upload button[aria-label='Clear']")
        seen.page.wait_for_selector(".refusal")
        send(seen.page, torn)
        seen.page.wait_for_function("document.querySelector('.refusal')?.textContent.includes('torn.png')")
        assert str(tmp_path) not in seen.page.content()
        assert "eomt_demo" not in seen.page.inner_text("#message")
        require_quiet(seen)
        # the browser notes in its console that it was refused
        seen.page.click("#upload button[aria-label='Clear']")
        send(seen.page, bad)
        seen.page.get_by_text("is no image that can be read").wait_for(timeout=SECONDS)


@pytest.mark.slow
@twice
def test_a_click_becomes_a_mask_that_undo_removes_and_two_corners_a_box(browser: Browser, tmp_path: Path) -> None:
    with running(prompted_models()) as address, visit(browser, address, width=390) as seen:
        page = seen.page
        send(page, picture(tmp_path))
        plain = pixels_of(page, "#picture")

        def click(x: float, y: float) -> None:
            page.locator("#picture img").scroll_into_view_if_needed()
            box = page.locator("#picture img").bounding_box()
            assert box is not None
            page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

        def wait_for_objects(count: int) -> np.ndarray:
            page.wait_for_function(
                "count => document.querySelectorAll('#objects tr').length === count", arg=count, timeout=SECONDS
            )
            return pixels_of(page, "#picture")

        click(0.5, 0.5)
        masked = wait_for_objects(1)
        assert (masked != plain).any(2).mean() > 0.01
        page.click("#undo")
        np.testing.assert_array_equal(wait_for_objects(0), plain)
        page.click("#mode label:nth-child(3)")
        before = page.evaluate("document.querySelector('#picture img').src")
        click(0.2, 0.2)
        # the corner is shown: a second click that comes before may be lost, and a person looks where the first one went
        page.wait_for_function(
            "src => ![src, undefined].includes(document.querySelector('#picture img')?.src)",
            arg=before,
            timeout=SECONDS,
        )
        click(0.8, 0.9)
        boxed = wait_for_objects(1)
        # the outline of the box
        assert (boxed == (0, 255, 255)).all(2).sum() > 100
        page.click("#clear")
        np.testing.assert_array_equal(wait_for_objects(0), plain)
        page.click("#mode label:nth-child(1)")
        box = page.locator("#picture img").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.9 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"], steps=4)
        assert page.locator("#drag-frame").is_visible()
        page.mouse.up()
        # drawn backwards, with the mouse held down: the same box, and no click
        np.testing.assert_array_equal(wait_for_objects(1), boxed)
        page.click("#new")
        click(0.9, 0.1)
        wait_for_objects(2)
        page.get_by_role("tab", name="Compare").click()
        page.wait_for_selector("#pair img", timeout=SECONDS)
        require_quiet(seen)
