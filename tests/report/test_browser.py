"""The report in a real browser: light, dark, and at the width of a phone."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from test_page import NASTY, made, many

from pillion.report.page import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        path = shutil.which("chromium")
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{'long ' * (i * 20)}text {i}" for i in range(35)]
    labels = [NASTY[i % len(NASTY)] for i in range(35)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    contents = [many(("no", "yes"), 40), made("multiclass", NASTY, texts, labels)]
    write_report(contents, path, "A report")
    return path


def opened(browser: Any, page_file: Path, scheme: str, width: int) -> tuple[Any, list[str]]:
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, java_script_enabled=True
    )
    page, seen = context.new_page(), list[str]()
    page.on("request", lambda request: seen.append(request.url))
    page.on("console", lambda message: seen.append(message.text))
    page.goto(page_file.as_uri())
    return page, seen


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_loads_only_itself_and_never_scrolls_sideways(
    browser: Any, page_file: Path, scheme: str, width: int
) -> None:
    page, seen = opened(browser, page_file, scheme, width)
    assert seen == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg").count() == 7
    assert all(box["width"] > 200 for box in (s.bounding_box() for s in page.locator("svg").all()))


def test_text_and_charts_follow_the_colour_scheme(browser: Any, page_file: Path) -> None:
    found: dict[str, list[str]] = {}
    for scheme in ("light", "dark"):
        page, _ = opened(browser, page_file, scheme, 1280)
        found[scheme] = page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                getComputedStyle(document.body).color,
                getComputedStyle(document.querySelector('svg text')).fill]"""
        )
    for light, dark in zip(found["light"], found["dark"], strict=True):
        assert light != dark
    assert found["light"][1] == found["light"][2]  # axes are written in the page's ink


def test_examples_are_hidden_until_they_are_asked_for(browser: Any, page_file: Path) -> None:
    page, _ = opened(browser, page_file, "light", 1280)
    example = page.locator(".example").first
    assert not example.is_visible()
    page.get_by_text("The surest mistakes").first.click()
    assert example.is_visible()
