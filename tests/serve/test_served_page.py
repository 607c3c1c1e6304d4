"""The page in a real browser: what a person sees, by keyboard, in light and dark, on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from typing import Any

import pytest
from client import listening

from pillion.backends.fake import FakeBackend
from pillion.runtime import PlainEngine
from tiny_models import make_artefact

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    backend = FakeBackend()
    tasks = {"safe": "binary", "topic": "multiclass"}
    probes = [
        make_artefact(name, backend.identity, task=task, seed=i)
        for i, (name, task) in enumerate(tasks.items())
    ]
    with listening(PlainEngine(backend, probes)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Any, url: str, request: pytest.FixtureRequest) -> Generator[Any]:
    """The opened page, which may not complain nor ask anybody else."""
    opened = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=request.param)
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda sent: asked.append(sent.url))
    opened.goto(url)
    yield opened
    opened.close()
    # A refusal is told by the browser itself as well.
    assert [text for text in said if not text.startswith("Failed to load resource")] == []
    assert [one for one in asked if not one.startswith((url, "data:"))] == []


def ask(page: Any, prompt: str = "hello") -> None:
    """Sends a prompt without a mouse and waits for the end of the answer."""
    page.focus("#prompt")
    page.keyboard.type(prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#cost:not(:empty)")


def test_verdicts_on_the_prompt_stand_above_the_answer(page: Any) -> None:
    ask(page)
    shown = page.locator("#before .probe h3").all_inner_texts()
    assert [text.split(":")[0] for text in shown] == ["safe", "topic"]
    assert page.locator("#before .bar").count() == 2 + 3
    widths = page.locator("#before .fill").evaluate_all("bars => bars.map(b => b.style.width)")
    assert all(width.endswith("%") for width in widths)
    assert page.locator("#before .line").count() == 1  # the threshold of the binary probe
    assert page.locator("#after .probe").count() == 2


def test_every_token_that_was_read_is_tinted_by_the_running_score(page: Any) -> None:
    ask(page)
    pieces = page.locator("#answer span")
    assert pieces.count() > 3
    titles = pieces.evaluate_all("spans => spans.map(span => span.title)")
    assert all("up to here" in title for title in titles[:-1])
    tints = pieces.evaluate_all("spans => spans.map(span => span.style.background)")
    assert len(set(tints[:-1])) > 1


def test_another_probe_and_label_can_be_chosen_for_the_tint(page: Any) -> None:
    ask(page)
    page.select_option("#probe", "topic")
    labels = page.locator("#label option").all_inner_texts()
    assert len(labels) == 3
    page.select_option("#label", labels[0])
    assert labels[0] in page.locator("#answer span").first.get_attribute("title")


def test_the_cost_of_the_probes_is_told_in_milliseconds(page: Any) -> None:
    ask(page)
    told = page.locator("#cost").inner_text()
    assert "first token after" in told and "probes took" in told and " ms" in told


def test_the_map_of_layers_and_tokens_is_walked_by_keyboard(page: Any) -> None:
    ask(page)
    page.focus("#explain")
    page.keyboard.press("Enter")
    page.wait_for_selector("#cell:not(:empty)")
    first = page.locator("#cell").inner_text()
    assert "layer 0" in first and "all layers of this token" in first
    page.focus("#heatmap")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert "layer 1" in page.locator("#cell").inner_text()
    assert page.locator("#heatmap").bounding_box()["width"] > 40


def test_a_phone_needs_no_sideways_scrolling(page: Any) -> None:
    ask(page, "x" * 200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_the_server_refuses_is_said_on_the_page(page: Any) -> None:
    page.fill("#limit", "4096")
    page.focus("#prompt")
    page.keyboard.type("x" * 400)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#error:not(:empty)")
    assert page.locator("#error").inner_text().endswith(".")
    assert page.locator("#send").is_enabled()
