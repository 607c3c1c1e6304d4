"""The page in a real browser: a chat that a person has, by keyboard, light and dark, on a phone."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Generator
from typing import Any

import pytest
from client import listening, settings

from pillion.backends.fake import FakeBackend
from pillion.core import Scope
from pillion.runtime import PlainEngine
from pillion.serve import make_policies
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
PROBES: dict[str, tuple[str, Scope]] = {
    "safe": ("binary", "all"),
    "topic": ("multiclass", "all"),
    "asked": ("binary", "last-user"),
    "answered": ("multilabel", "response"),
    "found": ("binary", "tool"),
}
ALWAYS = {"probe": "safe", "threshold": 0.0, "fail": "open"}
"""A policy that acts on every text."""


class Slow(FakeBackend):
    """Takes its time, so that an answer can be stopped."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.03)
        return super().forward(*args, **kwargs)


def engine(backend: FakeBackend) -> PlainEngine:
    return PlainEngine(
        backend,
        [
            make_artefact(name, backend.identity, task=task, seed=i, template="chat", scope=scope)
            for i, (name, (task, scope)) in enumerate(PROBES.items())
        ],
    )


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with listening(engine(FakeBackend())) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Generator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


class Opened:
    """An opened page, with all that it complained of and asked for."""

    def __init__(self, browser: Any, url: str, scheme: str = "light", width: int = 360) -> None:
        self.url = url
        self.page = browser.new_page(viewport={"width": width, "height": 740}, color_scheme=scheme)
        self.said: list[str] = []
        self.sent: list[Any] = []
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.sent.append(request))
        self.page.goto(url)
        self.page.wait_for_selector("#riding:not(:empty)")

    def type(self, text: str) -> None:
        """Types into whatever has the focus and sends it."""
        self.page.keyboard.type(text)
        self.page.keyboard.press("Enter")

    def limit(self, num_tokens: int) -> None:
        """Sets how long answers may be, in the settings that close at the first turn."""
        self.page.evaluate("document.querySelector('#setup').open = true")
        self.page.fill("#limit", str(num_tokens))

    def say(self, text: str) -> Any:
        """Sends a turn without a mouse; the answer, once it is whole."""
        before = self.page.locator(".turn").count()
        self.page.focus("#prompt")
        self.type(text)
        self.page.wait_for_function(
            "n => document.querySelectorAll('.turn').length === n"
            " && !document.querySelector('#send').disabled",
            arg=before + 2,
        )
        return self.page.locator(".turn").last

    def messages(self) -> list[Any]:
        """What the newest request for an answer held."""
        bodies = [one.post_data for one in self.sent if one.url.endswith("/chat/completions")]
        return json.loads(bodies[-1])["messages"]

    def close(self) -> None:
        """It may not have complained nor have sent a request elsewhere."""
        self.page.close()
        # A refusal is told by the browser itself as well.
        faults = [one for one in self.said if not one.startswith("Failed to load resource")]
        assert faults == []
        asked = [one.url for one in self.sent]
        assert [one for one in asked if not one.startswith((self.url, "data:"))] == []


@pytest.fixture(params=["light", "dark"])
def chat(browser: Any, url: str, request: pytest.FixtureRequest) -> Generator[Opened]:
    opened = Opened(browser, url, request.param)
    yield opened
    opened.close()


def names(box: Any) -> list[str]:
    return [text.split(":")[0] for text in box.locator(".probe h3").all_inner_texts()]


def test_verdicts_stand_beside_the_turn_that_they_are_of(chat: Opened) -> None:
    answer = chat.say("hello")
    asked = chat.page.locator(".turn").first
    assert names(asked) == ["safe", "topic", "asked", "found"]
    assert names(answer) == ["safe", "topic", "answered"]
    assert asked.locator(".bar").count() == 2 + 3 + 2
    widths = asked.locator(".fill").evaluate_all("bars => bars.map(b => b.style.width)")
    assert all(width.endswith("%") for width in widths)
    assert asked.locator(".line").count() == 2  # the thresholds of the binary probes


def test_a_probe_that_gave_no_verdict_says_why(chat: Opened) -> None:
    chat.say("hello")
    told = chat.page.locator(".turn").first.locator(".probe").last.inner_text()
    assert "no verdict" in told and "tool results" in told
    assert "no turn of the tool has words" in told


def test_the_whole_conversation_is_sent_with_every_turn(chat: Opened) -> None:
    chat.page.fill("#system", "Be brief.")
    first = chat.say("one")
    said = first.locator(".text").text_content()
    chat.say("two")
    assert chat.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "two"},
    ]
    chat.say("three")
    assert [one["role"] for one in chat.messages()] == [
        "system",
        *["user", "assistant"] * 2,
        "user",
    ]


def test_shift_and_enter_begin_a_new_line(chat: Opened) -> None:
    chat.page.focus("#prompt")
    chat.page.keyboard.type("a")
    chat.page.keyboard.press("Shift+Enter")
    assert chat.page.locator(".turn").count() == 0
    chat.say("b")
    assert chat.messages() == [{"role": "user", "content": "a\nb"}]


def test_a_new_chat_begins_without_the_old_turns(chat: Opened) -> None:
    chat.say("one")
    chat.page.focus("#fresh")
    chat.page.keyboard.press("Enter")
    assert chat.page.locator(".turn").count() == 0
    assert chat.page.evaluate("document.activeElement.id") == "prompt"
    chat.say("two")
    assert chat.messages() == [{"role": "user", "content": "two"}]


def test_every_token_that_was_read_is_tinted_by_the_running_score(chat: Opened) -> None:
    pieces = chat.say("hello").locator(".text span")
    assert pieces.count() > 3
    titles = pieces.evaluate_all("spans => spans.map(span => span.title)")
    assert all("up to here" in title for title in titles[:-1])
    tints = pieces.evaluate_all("spans => spans.map(span => span.style.background)")
    assert len(set(tints[:-1])) > 1


def test_the_token_that_no_probe_read_has_no_tint(chat: Opened) -> None:
    """The last token of an answer was tinted by verdicts on those before it."""
    chat.limit(3)
    titles = chat.say("hello").locator(".text span").evaluate_all("all => all.map(s => s.title)")
    assert [bool(title) for title in titles] == [True, True, False]


def test_only_probes_of_answers_can_be_chosen_for_the_tint(chat: Opened) -> None:
    chat.page.wait_for_selector("#tinting:not([hidden])")
    offered = chat.page.locator("#probe option")
    assert offered.all_inner_texts() == ["safe", "topic", "answered"]
    answer = chat.say("hello")
    assert offered.all_inner_texts() == ["safe", "topic", "answered"]
    chat.page.select_option("#probe", "answered")
    labels = chat.page.locator("#label option").all_inner_texts()
    assert len(labels) == 4
    chat.page.select_option("#label", labels[0])
    assert answer.locator(".text span").first.get_attribute("title").startswith(f"{labels[0]} ")


def test_the_cost_of_the_probes_is_told_in_milliseconds(chat: Opened) -> None:
    told = chat.say("hello").locator(".cost").inner_text()
    assert "first token after" in told and "probes took" in told and " ms" in told


def test_the_map_of_layers_and_tokens_is_walked_by_keyboard(chat: Opened) -> None:
    chat.say("hello")
    chat.page.locator(".explain").nth(2).focus()
    chat.page.keyboard.press("Enter")
    chat.page.wait_for_selector("#cell:not(:empty)")
    assert chat.page.locator("#t3").inner_text().startswith("asked:")
    first = chat.page.locator("#cell").inner_text()
    assert "layer 0" in first and "all layers of this token" in first
    chat.page.wait_for_function("document.activeElement.id === 'heatmap'")
    chat.page.keyboard.press("ArrowUp")
    chat.page.keyboard.press("ArrowRight")
    assert "layer 1" in chat.page.locator("#cell").inner_text()
    assert chat.page.locator("#heatmap").bounding_box()["width"] > 40
    chat.page.select_option("#reason", "no")
    chat.page.wait_for_function("document.querySelector('#cell').innerText.includes('for no')")
    chat.page.focus("#shut")
    chat.page.keyboard.press("Enter")
    assert chat.page.locator("#explained").count() == 0


def test_the_map_is_of_the_conversation_up_to_the_turn(chat: Opened) -> None:
    """It was of the turn alone, whose verdict may be another than the one beside the turn."""
    chat.page.fill("#system", "Be brief.")
    chat.say("one")
    chat.say("two")
    asked = chat.page.locator(".turn.user").last
    asked.get_by_role("button", name="Explain asked").click()
    chat.page.wait_for_selector("#cell:not(:empty)")
    assert chat.page.locator("#cell").inner_text().startswith('turn 4, user: "t"')
    sent = next(one for one in reversed(chat.sent) if one.url.endswith("/v1/explain"))
    assert json.loads(sent.post_data)["messages"] == chat.messages()
    chat.page.focus("#heatmap")
    chat.page.keyboard.press("ArrowLeft")
    assert chat.page.locator("#cell").inner_text().startswith("template: ")


def test_a_phone_needs_no_sideways_scrolling(chat: Opened) -> None:
    chat.say("x" * 200)
    assert chat.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert chat.page.evaluate("document.documentElement.scrollHeight") <= 740
    log = chat.page.locator("#log")
    assert log.evaluate("log => log.scrollWidth <= log.clientWidth")
    assert log.bounding_box()["height"] > 250


def test_what_is_read_aloud_is_named_and_comes_as_a_whole(chat: Opened) -> None:
    answer = chat.say("hello")
    assert answer.get_attribute("aria-busy") == "false"
    assert chat.page.locator("#status").inner_text().startswith("The answer is whole.")
    assert chat.page.get_by_role("log", name="Conversation").count() == 1
    fields = chat.page.locator("textarea, input, select, canvas")
    unnamed = "all => all.filter(f => !f.labels?.length && !f.ariaLabel).map(f => f.id)"
    assert fields.evaluate_all(unnamed) == []


def test_what_is_focused_by_keyboard_is_outlined(chat: Opened) -> None:
    for _ in range(8):
        chat.page.keyboard.press("Tab")
        outlined = "document.activeElement.matches(':focus-visible')"
        style = "getComputedStyle(document.activeElement).outlineStyle"
        if chat.page.evaluate("document.activeElement !== document.body"):
            assert chat.page.evaluate(outlined) and chat.page.evaluate(style) == "solid"


def test_a_turn_that_the_server_refuses_goes_back_to_be_changed(chat: Opened) -> None:
    chat.say("one")
    chat.limit(4096)
    chat.page.fill("#prompt", "x" * 600)
    chat.page.keyboard.press("Enter")
    chat.page.wait_for_selector("#error:not(:empty)")
    assert chat.page.locator("#error").inner_text().endswith(".")
    assert chat.page.locator("#send").is_enabled()
    assert chat.page.locator(".turn").count() == 2
    assert chat.page.input_value("#prompt") == "x" * 600
    chat.limit(5)
    chat.page.fill("#prompt", "")
    chat.say("two")
    assert [one["content"] for one in chat.messages()][::2] == ["one", "two"]
    assert chat.page.locator("#error").inner_text() == ""


@pytest.mark.parametrize("key", ["Escape", "Stop"])
def test_an_answer_that_was_stopped_stays_in_the_conversation(browser: Any, key: str) -> None:
    with listening(engine(Slow())) as url:
        opened = Opened(browser, url)
        opened.type("one")
        opened.page.wait_for_selector(".assistant .text span:nth-child(3)")
        if key == "Stop":
            opened.page.focus("#halt")
        opened.page.keyboard.press("Enter" if key == "Stop" else key)
        opened.page.wait_for_selector("#send:enabled")
        answer = opened.page.locator(".turn").last
        assert answer.locator(".note").inner_text() == "Stopped by you."
        said = answer.locator(".text").text_content()
        opened.limit(2)
        opened.say("two")
        assert opened.messages()[1] == {"role": "assistant", "content": said}
        assert len(opened.messages()) == 3
        opened.close()


def test_a_new_chat_ends_the_answer_of_the_old_one(browser: Any) -> None:
    with listening(engine(Slow())) as url:
        opened = Opened(browser, url)
        opened.type("one")
        opened.page.wait_for_selector(".assistant .text span:nth-child(3)")
        opened.page.click("#fresh")
        opened.limit(2)
        opened.say("two")
        assert opened.messages() == [{"role": "user", "content": "two"}]
        assert opened.page.locator("#error").inner_text() == ""
        assert opened.page.locator(".turn").count() == 2
        opened.close()


@pytest.mark.parametrize(
    ("policy", "dry_run", "note", "tag"),
    [
        ({"action": "block", "refusal": "No."}, False, "Refused by the policy on safe.", "block"),
        ({"action": "stop", "after_tokens": 4}, False, "Stopped by the policy on safe.", "stop"),
        ({"action": "block"}, True, "", "block, not followed (dry run)"),
    ],
)
def test_what_a_policy_decides_stands_at_the_turn(
    browser: Any, policy: Any, dry_run: bool, note: str, tag: str
) -> None:
    chosen = settings(policies=make_policies({"policies": [ALWAYS | policy]}), dry_run=dry_run)
    with listening(engine(FakeBackend()), chosen) as url:
        opened = Opened(browser, url)
        answer = opened.say("hello")
        told = answer.locator(".note").inner_text()
        assert note in told and bool(note) == ("policy" in told)
        assert tag in opened.page.locator(".tag.acts").all_inner_texts()
        assert (answer.locator(".text").text_content() == "No.") == (note.startswith("Refused"))
        opened.close()


def test_a_server_without_probes_is_a_chat_too(browser: Any) -> None:
    with listening(PlainEngine(FakeBackend())) as url:
        opened = Opened(browser, url)
        answer = opened.say("hello")
        assert opened.page.locator("#riding").inner_text() == "no probe rides"
        assert len(answer.locator(".text").text_content()) > 0
        assert opened.page.locator("#tinting").is_hidden()
        opened.close()
