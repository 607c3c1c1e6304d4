"""Inside `attach`, a verdict is of the answer alone, whatever `generate` runs beside it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria

from pillion.backends.transformers import TransformersBackend
from pillion.core import Tokens, Turn
from pillion.errors import StateError
from pillion.probe import Artefact
from pillion.runtime import attach
from tiny_models import (
    DEVICE,
    all_artefacts,
    distance,
    full_states,
    make_artefact,
    offline,
    probs_of,
    random_ids,
    tiny_backend,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = torch.tensor([random_ids(12, seed) for seed in (0, 1)], device=DEVICE)
HOW: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return tiny_backend()


def generated(backend: TransformersBackend, **how: Any) -> torch.Tensor:
    return backend.model.generate(PROMPTS, attention_mask=torch.ones_like(PROMPTS), **HOW | how)


@pytest.fixture(scope="module")
def end(backend: TransformersBackend) -> int:
    """A token that the first answer draws as its third, and the second never."""
    first, second = generated(backend)[:, PROMPTS.shape[1] :].tolist()
    assert first[2] not in (*first[:2], *second)
    return first[2]


class EndsAt(StoppingCriteria):
    """Ends the rows whose last token is this one."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return input_ids[:, -1] == self.token


@torch.no_grad()
@pytest.mark.parametrize("by", ["end token", "criterion"])
@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 5}],
    ids=["cache", "no-cache", "static", "chunked"],
)
def test_a_row_that_ends_before_others_is_read_as_it_is_alone(
    backend: TransformersBackend, end: int, options: dict[str, Any], by: str
) -> None:
    """Its end token and its padding were read too: 0.06 away, by what its neighbour said."""
    every = all_artefacts(backend.identity)
    ends = {"eos_token_id": end} if by == "end token" else {"stopping_criteria": [EndsAt(end)]}
    with attach(backend.model, every) as reading:
        drawn = generated(backend, **options, **ends)
        found = reading.verdicts()
    rows = [drawn[0, : PROMPTS.shape[1] + 2], drawn[1, :-1]]
    for row, said in zip(rows, found, strict=True):
        states = full_states(backend, row.tolist())
        for probe in every:
            wanted = offline(probe, states, [range(len(row))])
            assert distance(probs_of(said[probe.name], probe), wanted) < 1e-4, probe.name


@torch.no_grad()
def test_an_answer_that_ends_before_others_is_read_by_its_scope(end: int) -> None:
    from chat_templates import chat_backend

    backend = chat_backend()
    probe = make_artefact("p", backend.identity, template="chat", scope="response")
    talks = [(Turn("user", "Hello there"),), (Turn("user", "And what about this one?"),)]

    def answer(eos: int | None) -> tuple[Any, Any]:
        with attach(backend.model, probe, backend.tokenizer) as reading:
            batch = reading.encode(talks)
            drawn = backend.model.generate(**batch, **HOW, eos_token_id=eos)
            return drawn[:, batch["input_ids"].shape[1] :].tolist(), reading.verdicts()

    (first, second), _ = answer(None)
    early = next(n for n, token in enumerate(first) if token not in (*first[:n], *second))
    assert 0 < early < len(first) - 1
    _, found = answer(first[early])
    row = backend.encode_chat(talks[0])
    states = full_states(backend, [*row, *first[:early]])
    wanted = offline(probe, states, [range(len(row), len(row) + early)])
    assert distance(probs_of(found[0]["p"], probe), wanted) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("prompt", [1, 2])
def test_the_text_that_guidance_runs_is_not_read(backend: TransformersBackend, prompt: int) -> None:
    """Verdicts of prompt and answer were those of the other text, 0.5 away."""
    probe = make_artefact("p", backend.identity)
    ids = PROMPTS[:prompt]
    with attach(backend.model, probe) as reading:
        mask = torch.ones_like(ids)
        drawn = backend.model.generate(ids, attention_mask=mask, guidance_scale=1.5, **HOW)
        found, asked = reading.verdicts(), reading.prompt_verdicts()
        with pytest.raises(StateError, match="cannot be told from the answer's"):
            backend.model.generate(ids, guidance_scale=1.5, use_cache=False, **HOW)
    for rows, said in ((drawn[:, :-1], found), (ids, asked)):
        for row, one in zip(rows.tolist(), said, strict=True):
            wanted = offline(probe, full_states(backend, row), [range(len(row))])
            assert distance(probs_of(one["p"], probe), wanted) < 1e-4


@torch.no_grad()
def test_drafts_are_refused(backend: TransformersBackend) -> None:
    """Where the answer ended with the first drafts, those that were dropped had been read."""
    ids = PROMPTS[:1].repeat(1, 2)
    end = int(backend.model.generate(ids, **HOW | {"max_new_tokens": 1})[0, -1])
    probe = make_artefact("p", backend.identity)
    for drafts in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": tiny_backend().model}):
        with (
            attach(backend.model, probe),
            pytest.raises(StateError, match="generate without drafts"),
        ):
            backend.model.generate(ids, eos_token_id=end, **drafts, **HOW)


@torch.no_grad()
def test_passes_of_the_callers_own_behind_generate_are_read_whole(
    backend: TransformersBackend, end: int
) -> None:
    probe = make_artefact("p", backend.identity)
    with attach(backend.model, probe) as reading:
        backend.model(PROMPTS)
        wanted = reading.verdicts()
        generated(backend, eos_token_id=end)
        backend.model(PROMPTS)
        assert reading.verdicts() == wanted


@torch.no_grad()
def test_generate_of_another_thread_ends_no_row_of_this_one(
    backend: TransformersBackend, end: int
) -> None:
    probe = make_artefact("p", backend.identity)
    with attach(backend.model, probe) as reading:
        backend.model(PROMPTS)
        wanted = reading.verdicts()
        other = threading.Thread(target=lambda: generated(backend, eos_token_id=end))
        other.start()
        backend.model(PROMPTS)
        other.join()
        assert reading.verdicts() == wanted


def noting(plain: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """A user's own method in a plain one's place, which takes down that it was called."""

    def own(*args: Any, **kwargs: Any) -> Any:
        calls.append("own")
        return plain(*args, **kwargs)

    return own


@torch.no_grad()
def test_a_models_own_methods_are_left_as_they_were() -> None:
    backend = tiny_backend()
    model, calls = backend.model, list[str]()
    own = noting(model.generate, calls)
    probe: Artefact = make_artefact("p", backend.identity)
    before = set(vars(model))
    with attach(model, probe), attach(model, probe):
        twin = copy.deepcopy(model)
        wanted = generated(backend)
    assert set(vars(model)) == before
    twin.get_output_embeddings().weight.neg_()
    assert not torch.equal(twin.generate(PROMPTS, **HOW), wanted)

    model.generate = own
    with attach(model, probe) as reading:
        generated(backend)
        assert len(reading.verdicts()) == 2
    assert model.generate is own and calls == ["own"]


@torch.no_grad()
def test_a_models_own_prefill_is_followed_and_left_as_it_was() -> None:
    """It was not followed, and gone behind the last watcher."""
    backend = tiny_backend()
    model, calls = backend.model, list[str]()
    own = noting(model._prefill, calls)
    probe: Artefact = make_artefact("p", backend.identity)

    with attach(model, probe) as reading:
        generated(backend, prefill_chunk_size=1)
        wanted = reading.prompt_verdicts()
    model._prefill = own
    with attach(model, probe) as reading:
        generated(backend, prefill_chunk_size=1)
        assert reading.prompt_verdicts() == wanted
    assert model._prefill is own and calls == ["own"]


def talk_of_two(backend: TransformersBackend, answered: torch.Tensor, begin: int) -> Tokens:
    """The conversation that goes on behind an answer, as it was drawn."""
    turns = (Turn("user", "Hello there"), Turn("assistant", "x"), Turn("user", "My balance!"))
    row, more = backend.encode_chat(turns), answered.shape[1] - begin - 1
    ids = [*answered[0].tolist(), *row[begin + 1 :]]
    moved = [
        replace(s, begin=s.begin + more * (s.begin > begin), end=s.end + more * (s.begin >= begin))
        for s in row.segments
    ]
    return Tokens(ids, moved)


@torch.no_grad()
@pytest.mark.parametrize("how", ["told", "untold", "loop"])
def test_a_new_turn_behind_the_cache_of_earlier_ones_is_refused_by_scopes(how: str) -> None:
    """Its words were read as the answer's, 0.35 away, and the last user's were those of before."""
    from chat_templates import chat_backend

    backend = chat_backend()
    model, word = backend.model, backend.cache_word
    probe = make_artefact("p", backend.identity, template="chat", scope="last-user")
    with attach(model, probe, backend.tokenizer) as reading:
        cache, batch = backend.new_cache(), reading.encode([(Turn("user", "Hello there"),)])
        drawn = model.generate(**batch, **HOW, **{word: cache})
        before = reading.verdicts()
        more = model.generate(drawn, attention_mask=torch.ones_like(drawn), **HOW, **{word: cache})
        assert reading.verdicts() == before == reading.prompt_verdicts()  # of the same answer
        row = talk_of_two(backend, more, batch["input_ids"].shape[1])
        ids = torch.tensor([row], device=DEVICE)
        if how != "untold":
            reading.expect([row], answering=True)
        with pytest.raises(StateError, match="run the whole conversation, with a new cache"):
            if how == "loop":
                model(ids[:, cache.get_seq_length() :], **{word: cache})
            else:
                model.generate(ids, attention_mask=torch.ones_like(ids), **HOW, **{word: cache})
        reading.expect([row], answering=True)
        model.generate(ids, attention_mask=torch.ones_like(ids), **HOW)
        (found,) = reading.verdicts()
    wanted = offline(probe, full_states(backend, row), row.ranges("last-user"))
    assert distance(probs_of(found["p"], probe), wanted) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 5, 11])
def test_of_a_prompt_behind_a_cache_the_verdict_is_of_all_that_generate_was_given(
    backend: TransformersBackend, first: int
) -> None:
    """It was that of the first pass of all: of the first turn, or of a prompt's beginning."""
    probe, word, ids = make_artefact("p", backend.identity), backend.cache_word, PROMPTS
    rounds = list[tuple[torch.Tensor, Any]]()
    with attach(backend.model, probe) as reading:
        cache = backend.new_cache()
        if first:
            backend.model(ids[:, :first], **{word: cache})
        for _ in range(2):
            mask = torch.ones_like(ids)
            drawn = backend.model.generate(ids, attention_mask=mask, **HOW, **{word: cache})
            rounds.append((ids, reading.prompt_verdicts()))
            ids = torch.cat([drawn, PROMPTS[:, :4]], dim=1)
    for prompts, found in rounds:
        for row, said in zip(prompts.tolist(), found, strict=True):
            wanted = offline(probe, full_states(backend, row), [range(len(row))])
            assert distance(probs_of(said["p"], probe), wanted) < 1e-4
