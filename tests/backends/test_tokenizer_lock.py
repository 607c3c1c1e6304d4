"""One tokenizer and many threads: short texts do not wait for long ones, and nothing mixes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chat_templates import chat_tokenizer
from pillion.backends.codec import Codec
from pillion.backends.tokenizer_lock import LONG_CHARS, taken
from pillion.core import Template

LONG = "word and " * (LONG_CHARS // 8)
PATIENCE = 60


@pytest.fixture
def codec() -> Codec:
    return Codec(chat_tokenizer("chatml"), "tiny")


class Held:
    """Long texts stay inside the tokenizer until they are let go."""

    def __init__(self, tokenizer: Any, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        plain = type(tokenizer).__call__

        def slow(one: Any, text: str, *args: Any, **kwargs: Any) -> Any:
            if len(text) > LONG_CHARS:
                self.begun.set()
                assert self.go.wait(PATIENCE)
            return plain(one, text, *args, **kwargs)

        patch.setattr(type(tokenizer), "__call__", slow)


@pytest.mark.parametrize("template", ["raw", "chat"])
def test_short_texts_are_encoded_and_tokens_decoded_while_a_long_text_is_being_encoded(
    codec: Codec, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chat of one token took 2.9 s instead of 0.55 s: one lock for texts of any length."""
    wanted = codec.encode("hello", template), codec.encode(LONG, template)
    text = codec.decode(wanted[0])
    held = Held(codec.tokenizer, monkeypatch)
    with ThreadPoolExecutor(3) as pool:
        long = pool.submit(codec.encode, LONG, template)
        try:
            assert held.begun.wait(PATIENCE)
            assert pool.submit(codec.encode, "hello", template).result(PATIENCE) == wanted[0]
            assert pool.submit(codec.decode, wanted[0]).result(PATIENCE) == text
            assert not long.done()
        finally:
            held.go.set()
        assert long.result(PATIENCE) == wanted[1]


def test_everyone_who_has_a_tokenizer_shares_one_copy_of_it() -> None:
    tokenizer = chat_tokenizer("chatml")
    with taken(tokenizer, LONG_CHARS + 1) as one:
        pass
    with taken(tokenizer, 2 * LONG_CHARS) as two, taken(tokenizer, LONG_CHARS) as short:
        assert one is two is not tokenizer
        assert short is tokenizer


def test_a_long_text_has_the_tokens_that_the_tokenizer_itself_gives_it(codec: Codec) -> None:
    plain = codec.tokenizer(LONG)["input_ids"]
    assert list(codec.encode(LONG, "raw")) == plain
    assert codec.decode(plain) == codec.tokenizer.decode(plain, skip_special_tokens=True)
    chat = codec.encode(LONG, "chat")
    (segment,) = chat.segments
    assert codec.decode(chat[segment.begin : segment.end]).strip() == LONG.strip()


class Uncopied:
    """A tokenizer with parts in Python."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise Exception("Custom PreTokenizer cannot be serialized")


def test_a_tokenizer_that_cannot_be_copied_is_taken_by_one_at_a_time() -> None:
    tokenizer = Uncopied()
    entered = threading.Event()

    def enter() -> None:
        with taken(tokenizer, 1):
            entered.set()

    other = threading.Thread(target=enter)
    with taken(tokenizer, LONG_CHARS + 1) as one:
        assert one is tokenizer
        other.start()
        assert not entered.wait(0.2)
    other.join(PATIENCE)
    assert entered.is_set()
