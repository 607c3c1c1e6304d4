"""Grammars as masks: whatever the logits are, what is drawn has the form."""

from __future__ import annotations

import json
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chat_templates import VOCAB, chat_backend, chat_tokenizer
from pillion.backends import Backend
from pillion.backends.fake import END, FakeBackend
from pillion.backends.grammar import KEPT, json_rule, library
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError, RunError
from pillion.runtime import Sampler, Sampling
from tiny_models import tiny_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "ü"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
FORM = f"start: {json_rule(SCHEMA)}\n"


def transformers_backend(vocab: int = VOCAB) -> TransformersBackend:
    tokenizer = chat_tokenizer("chatml")
    tokenizer.eos_token = "<|im_end|>"
    return TransformersBackend(tiny_model(vocab=vocab), tokenizer, "tiny")


BACKENDS = {
    "fake": FakeBackend,
    "transformers": transformers_backend,
    "rows without a token": lambda: transformers_backend(VOCAB + 13),
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: Any) -> Backend:
    return BACKENDS[request.param]()


def drawn(backend: Backend, grammar: str, seed: int, temperature: float = 1.0) -> str | None:
    """An answer from noise; None if it has no end."""
    matcher = backend.matcher(grammar)
    how = Sampling(temperature, seed=seed, presence_penalty=0.5)
    sampler = Sampler(how, torch.device("cpu"), (), matcher)
    noise, ids = torch.Generator().manual_seed(seed), list[int]()
    for _ in range(400):
        token = int(sampler(3 * torch.randn(1, backend.vocab_size, generator=noise)))
        if token in backend.end_ids:
            return backend.decode(ids)
        ids.append(token)
    return None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_drawn_has_the_form(backend: Backend, temperature: float) -> None:
    for seed in range(8):
        answer = drawn(backend, FORM, seed, temperature)
        assert answer is not None
        said = json.loads(answer)
        assert list(said) == ["a", "b"] and isinstance(said["a"], int) and said["b"] in ("x", "ü")


def test_an_answer_may_end_only_where_it_is_whole(backend: Backend) -> None:
    matcher = backend.matcher('start: "ab" "c"?\n')
    (end, *_) = backend.end_ids
    logits = torch.zeros(1, backend.vocab_size)
    free: list[set[int]] = []
    for token in (*backend.encode("abc", "raw"), end):
        free.append(set(torch.isfinite(matcher.bar(logits))[0].nonzero().flatten().tolist()))
        matcher.take(token)
    a, b, c = backend.encode("abc", "raw")
    assert free == [{a}, {b}, {c, end}, {end}]
    assert torch.equal(logits, torch.zeros_like(logits))


def test_matchers_do_not_follow_each_other(backend: Backend) -> None:
    one, other = (backend.matcher('start: "ab"\n') for _ in range(2))
    a, b = backend.encode("ab", "raw")
    one.take(a)
    logits = torch.zeros(1, backend.vocab_size)
    assert int(one.bar(logits).argmax()) == b and int(other.bar(logits).argmax()) == a


def test_a_token_that_may_not_come_is_an_error() -> None:
    matcher = FakeBackend().matcher('start: "ab"\n')
    with pytest.raises(RunError, match="cannot be followed"):
        matcher.take(ord("b"))


def test_a_form_that_cannot_be_followed_is_refused() -> None:
    for rule in ("start: missing\n", f"start: {json_rule({'type': 'nope'})}\n", "start"):
        with pytest.raises(ConfigError, match=r"The form cannot be followed: .+\.$"):
            FakeBackend().matcher(rule)


def test_a_schema_cannot_loosen_how_it_is_followed() -> None:
    loose = {"x-guidance": {"lenient": True}, "type": "string", "notAKeyword": 1, "format": "zip"}
    with pytest.raises(ConfigError, match="format"):
        FakeBackend().matcher(f"start: {json_rule(loose)}\n")


def test_few_grammars_are_kept() -> None:
    backend = FakeBackend()
    for n in range(KEPT + 5):
        backend.matcher(f'start: "{n}"\n')
    assert len(backend._grammars._kept) == KEPT


def test_a_grammar_that_takes_long_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wanted one waited for it, the event loop of a server among them."""
    backend, plain = FakeBackend(), library()
    begun, go_on = threading.Event(), threading.Event()

    def make(tokenizer: Any, text: str, **options: Any) -> Any:
        if "slow" in text:
            begun.set()
            go_on.wait(30)
        return plain.LLMatcher(tokenizer, text, **options)

    backend.matcher('start: "quick"\n')
    guide = SimpleNamespace(LLMatcher=make)
    monkeypatch.setattr("pillion.backends.grammar.library", lambda: guide)
    slow = threading.Thread(target=backend.matcher, args=('start: "slow"\n',))
    quick = threading.Thread(target=backend.matcher, args=('start: "quick"\n',))
    slow.start()
    assert begun.wait(30)
    quick.start()
    quick.join(5)
    waits = quick.is_alive()
    go_on.set()
    slow.join()
    assert not waits


def test_without_the_library_the_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConfigError, match=r"python -m pip install 'pillion\[grammar\]'\.$"):
        FakeBackend().matcher(FORM)


def test_a_model_without_an_end_is_refused() -> None:
    backend = chat_backend()
    with pytest.raises(ConfigError, match="no end token"):
        backend.matcher(FORM)


def test_the_end_token_of_the_fake_model_is_not_text() -> None:
    assert drawn(FakeBackend(), "start: /(.|\\n){3,20}/\n", 0) is not None and END == 257


def test_text_that_spells_a_token_of_the_template_can_be_followed() -> None:
    """It was asked for as that token and then refused: a call that had to come was a failure."""
    tokenizer = chat_tokenizer("qwen3")
    tokenizer.eos_token = "<|im_end|>"
    backend = TransformersBackend(tiny_model(vocab=VOCAB), tokenizer, "tiny")
    numbers = tokenizer.get_added_vocab()
    hidden = [name for name in numbers if backend.hidden_id(name) is not None]
    assert 0 < len(hidden) < len(numbers)  # both kinds are there
    for name, number in numbers.items():
        assert drawn(backend, f"start: {json_rule({'const': name})}\n", 0) == json.dumps(name)
        logits = torch.zeros(1, backend.vocab_size)
        free = torch.isfinite(backend.matcher("start: /(.|\\n)+/\n").bar(logits))[0]
        assert bool(free[number]) == (name not in hidden and number not in backend.end_ids)
