"""The pages of runs in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from eomt.report import main
from tests.browser import chromium, needs_chromium, visit
from tests.made_up_runs import write_run, write_test

pytestmark = needs_chromium

PHONE, DESKTOP = 390, 1280


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(tmp_path: Path) -> Path:
    names = ["road", "<script>document.title = 'evil'</script>", "a class with a very long name " * 5]
    folder = write_run(tmp_path / "a run with <img src=x onerror=alert(1)>", notes=["what must be known"])
    write_test(folder, names)
    assert main([str(folder), "--html"]) == 0
    return folder / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(DESKTOP, False), (PHONE, False), (PHONE, True)])
def test_a_page_opens_without_an_error_and_loads_nothing(
    browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    with visit(browser, page.as_uri(), width, dark=dark) as seen:
        for section in ("curves", "parts", "confusion", "examples", "adapters", "configuration", "origins", "log"):
            assert seen.page.locator(f"#{section} > h2").is_visible(), section
        assert seen.page.title() == page.parent.name
        # nothing but wide tables, inside of their own frames, is wider than the screen
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        assert seen.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        # the style is applied, whose hash the policy names
        paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") != dark
        picture = seen.screenshot(tmp_path / "page.png")
        seen.page.get_by_text("All of config.yaml").click()
        assert seen.page.locator("#configuration pre").is_visible()
    assert seen.errors == []
    assert seen.outside == []
    assert seen.requests == [page.as_uri()]
    with Image.open(picture) as drawn:
        assert drawn.width == width
        assert len(drawn.convert("RGB").getcolors(2**24) or ()) > 50


def test_a_page_is_printed_on_white_whatever_the_screen_shows(browser: Browser, page: Path) -> None:
    with visit(browser, page.as_uri(), dark=True) as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not seen.page.locator("nav").is_visible()


def test_the_policy_refuses_what_a_page_should_not_hold(browser: Browser, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    more = (
        "<script>document.title = 'evil'</script><img src='http://203.0.113.1/x.png'><p style='color:red'>x</p></body>"
    )
    page.write_text(text.replace("</body>", more), encoding="utf-8")
    with visit(browser, page.as_uri()) as seen:
        assert seen.page.title() == page.parent.name
    assert len(seen.errors) == 3
    assert all("Content Security Policy" in error for error in seen.errors)
    assert seen.outside == []


def test_what_leaves_the_machine_is_refused_and_noted(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<img src='http://203.0.113.1/x.png'>")
    with visit(browser, (tmp_path / "page.html").as_uri()) as seen:
        seen.page.wait_for_load_state()
    assert seen.outside == ["http://203.0.113.1/x.png"]


def test_a_comparison_opens_too(browser: Browser, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", best=0.8),
        write_run(tmp_path / "c", metric="val_dice"),
    ]
    page = tmp_path / "page.html"
    assert main([*map(str, runs), "--html", str(page)]) == 0
    with visit(browser, page.as_uri(), PHONE) as seen:
        assert seen.page.locator("table").count() == 2
        assert seen.page.locator("svg[role=img]").first.is_visible()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert seen.errors == []
    assert seen.requests == [page.as_uri()]
