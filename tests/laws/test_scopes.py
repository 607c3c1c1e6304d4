"""The laws of scopes: a verdict is that of the states of the scope's own tokens, however they came.

The reference is `Network.forward` on the states of those tokens, taken from the whole conversation
run by itself: hidden states stay contextual. Reading every token must differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from chat_templates import chat_backend
from pillion.backends.transformers import TransformersBackend
from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, Tokens, Turn
from pillion.errors import DataError, StateError
from pillion.probe import AGGREGATORS, Artefact
from pillion.runtime import LanguageModel, attach, encode_rows, pad_batch, watch
from tiny_models import DEVICE, distance, full_states, make_artefact, offline, probs_of

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 1e-5

each_name = pytest.mark.parametrize("name", AGGREGATORS)

CONVERSATIONS = [
    (
        Turn("system", "You serve a bank."),
        Turn("user", "Hello there"),
        Turn("assistant", "What can I do?"),
        Turn("tool", "17 euros"),
        Turn("user", "My balance, please!"),
    ),
    (
        Turn("system", "Be brief"),
        Turn("user", "What is 2 + 2?"),
        Turn("tool", "4"),
        Turn("assistant", "It is four."),
    ),
    (Turn("user", "Just this one turn of some length"),),
]


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return chat_backend()


@pytest.fixture(scope="module")
def rows(backend: TransformersBackend) -> list[Tokens]:
    return [backend.encode_chat(turns) for turns in CONVERSATIONS]


def of_every_scope(backend: TransformersBackend, name: str) -> list[Artefact]:
    """The same weights, one probe a scope."""
    return [
        make_artefact(scope, backend.identity, name, template="chat", scope=scope)
        for scope in SCOPES
    ]


def wanted(backend: TransformersBackend, probe: Artefact, row: Tokens) -> Tensor | None:
    ranges = row.ranges(probe.card.scope)
    return offline(probe, full_states(backend, row), ranges) if ranges else None


def assert_verdicts(
    backend: TransformersBackend,
    probes: Sequence[Artefact],
    rows: Sequence[Tokens],
    verdicts: Sequence[dict[str, Any]],
) -> None:
    assert len(rows) == len(verdicts)
    for row, found in zip(rows, verdicts, strict=True):
        for probe in probes:
            expected = wanted(backend, probe, row)
            assert (probe.name in found) == (expected is not None)
            if expected is not None:
                got = probs_of(found[probe.name], probe)
                assert distance(got, expected) <= LIMIT, probe.name


@each_name
def test_a_padded_batch_reads_each_scope_of_each_row(
    backend: TransformersBackend, rows: list[Tokens], name: str
) -> None:
    probes = of_every_scope(backend, name)
    assert_verdicts(backend, probes, rows, LanguageModel(backend).score_rows(rows, probes))


@each_name
@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_chunks_of_any_size_read_what_the_whole_reads(
    backend: TransformersBackend, rows: list[Tokens], name: str, chunk: int
) -> None:
    probes, row = of_every_scope(backend, name), rows[0]
    with watch(backend, probes) as reading:
        reading.expect([row])
        cache = backend.new_cache()
        for begin in range(0, len(row), chunk):
            ids = torch.tensor([row[begin : begin + chunk]])
            seen = torch.ones(1, begin + ids.shape[1], dtype=torch.bool)
            backend.forward(ids, seen, cache)
        found = reading.verdicts()
    assert_verdicts(backend, probes, [row], found)


@each_name
@torch.no_grad()
def test_a_packed_batch_reads_each_scope_of_each_sequence(
    backend: TransformersBackend, rows: list[Tokens], name: str
) -> None:
    probes = of_every_scope(backend, name)
    ids = torch.tensor([[token for row in rows for token in row]], device=DEVICE)
    places = torch.tensor([[i for row in rows for i in range(len(row))]], device=DEVICE)
    with watch(backend, probes) as reading:
        reading.expect(rows)
        backend.model(input_ids=ids, position_ids=places, use_cache=False)
        found = reading.verdicts()
    assert_verdicts(backend, probes, rows, found)


@each_name
def test_a_stream_gives_each_scope_where_it_belongs(
    backend: TransformersBackend, name: str
) -> None:
    probes = of_every_scope(backend, name)
    prompt = CONVERSATIONS[0]
    answer = LanguageModel(backend).generate(prompt, probes, max_tokens=6)
    row = backend.encode_chat(prompt)
    assert set(answer.prompt) == set(PROMPT_SCOPES)
    assert set(answer.response) == set(ANSWER_SCOPES)
    for probe in probes:
        if probe.name in answer.prompt:
            got = probs_of(answer.prompt[probe.name], probe)
            expected = wanted(backend, probe, row)
            assert expected is not None and distance(got, expected) <= LIMIT
    states = full_states(backend, [*row, *answer.token_ids[:-1]])
    read = [range(len(row), states.shape[1])]
    for probe in probes:
        if probe.name in answer.response:
            got = probs_of(answer.response[probe.name], probe)
            assert distance(got, offline(probe, states, read)) <= LIMIT


def test_reading_every_token_differs(backend: TransformersBackend, rows: list[Tokens]) -> None:
    """The control: a scope that read everything would be seen."""
    probes = of_every_scope(backend, "gate")
    (found, *_) = LanguageModel(backend).score_rows(rows[:1], probes)
    every = probs_of(found["all"], probes[-1])
    for probe in probes[:-1]:
        if probe.name in found:
            assert distance(probs_of(found[probe.name], probe), every) > 100 * LIMIT


def test_reasoning_is_no_part_of_an_answer() -> None:
    """Tokens between the marks of reasoning are generated, and read by no probe of answers."""
    backend = chat_backend("qwen3")
    first, last = backend.reasoning_ids or (0, 0)
    probe = make_artefact("p", backend.identity, template="chat", scope="response")
    row = backend.encode_chat((Turn("user", "2 + 2?"),))
    answer = [first, 70, 71, last, 72, 73]
    with watch(backend, [probe]) as reading:
        reading.expect([row], answering=True)
        cache = backend.new_cache()
        backend.forward(*pad_batch([row]), cache)
        reading.cut()
        for place, token in enumerate(answer, start=len(row) + 1):
            seen = torch.ones(1, place, dtype=torch.bool)
            backend.forward(torch.tensor([[token]]), seen, cache)
            assert bool(reading.verdicts()[0]) == (token in (72, 73))
        (found,) = reading.verdicts()
    states = full_states(backend, [*row, *answer])
    spoken = [range(len(row) + 4, len(row) + 6)]
    assert distance(probs_of(found["p"], probe), offline(probe, states, spoken)) <= LIMIT


@torch.no_grad()
def test_attached_probes_read_the_conversations_that_were_encoded(
    backend: TransformersBackend,
) -> None:
    probes = of_every_scope(backend, "gate")
    talks = [CONVERSATIONS[0], CONVERSATIONS[2]]
    with attach(backend.model, probes, backend.tokenizer) as reading:
        batch = reading.encode(talks)
        backend.model.generate(**batch, max_new_tokens=4, do_sample=False, pad_token_id=0)
        asked = reading.prompt_verdicts()
    prompts = [backend.encode_chat(talk) for talk in talks]
    read = [probe for probe in probes if probe.card.scope != "response"]
    assert_verdicts(backend, read, prompts, asked)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [None, 20])
def test_padding_beyond_the_longest_row_is_no_part_of_a_prompt(
    backend: TransformersBackend, chunk: int | None
) -> None:
    """Its length was counted as words: the rest of a prompt in chunks was taken for an answer.

    In one piece, the answer before was taken for a part of the one that is generated.
    """
    probes = of_every_scope(backend, "gate")
    talks = [CONVERSATIONS[0], CONVERSATIONS[2]]
    how: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    with attach(backend.model, probes, backend.tokenizer) as reading:
        batch = {n: F.pad(one, (40, 0)) for n, one in reading.encode(talks).items()}
        drawn = backend.model.generate(**batch, **how, prefill_chunk_size=chunk)
        asked, every = reading.prompt_verdicts(), reading.verdicts()
    prompts = [backend.encode_chat(talk) for talk in talks]
    read = [probe for probe in probes if probe.card.scope != "response"]
    assert_verdicts(backend, read, prompts, asked)
    assert not any("response" in found for found in asked)
    for row, answer, found in zip(prompts, drawn.tolist(), every, strict=True):
        states = full_states(backend, [*row, *answer[-4:-1]])
        own = offline(probes[SCOPES.index("response")], states, [range(len(row), len(row) + 3)])
        got = probs_of(found["response"], probes[SCOPES.index("response")])
        assert distance(got, own) <= LIMIT


@each_name
def test_a_row_may_be_answered_while_a_longer_one_is_still_read(
    backend: TransformersBackend, rows: list[Tokens], name: str
) -> None:
    """What was answered before the longest prompt had run was read by no probe of answers."""
    probes = of_every_scope(backend, name)
    short, long = sorted((rows[0], rows[2]), key=len)
    answer = [(7 * place) % 60 for place in range(len(long) - len(short) + 3)]
    batch = torch.tensor([[*short, *answer], [*long, 5, 6, 7]])
    with watch(backend, probes) as reading:
        reading.expect([short, long], answering=True)
        cache, begin = backend.new_cache(), 0
        for end in (len(short), len(long) - 1, len(long), batch.shape[1]):
            seen = torch.ones(2, end, dtype=torch.bool)
            backend.forward(batch[:, begin:end], seen, cache)
            begin = end
        found = reading.verdicts()
    for prompt, row, said in zip((short, long), batch.tolist(), found, strict=True):
        states, answered = full_states(backend, row), range(len(prompt), len(row))
        for probe in probes:
            scope = probe.card.scope
            ranges = [*prompt.ranges(scope)] if scope != "response" else []
            ranges += [answered] if scope in ANSWER_SCOPES else []
            assert (probe.name in said) == bool(ranges)
            if ranges:
                got = probs_of(said[probe.name], probe)
                assert distance(got, offline(probe, states, ranges)) <= LIMIT, probe.name


@torch.no_grad()
def test_tokens_of_unknown_turns_are_refused(backend: TransformersBackend) -> None:
    """A probe of some turns would otherwise read tokens of anyone."""
    probe = make_artefact("p", backend.identity, template="chat", scope="user")
    ids = torch.tensor([[1, 2, 3]], device=DEVICE)
    with attach(backend.model, probe, backend.tokenizer) as reading:
        with pytest.raises(StateError, match="nothing says whose words"):
            backend.model(input_ids=ids)
        reading.encode([CONVERSATIONS[0]])
        with pytest.raises(StateError, match="holds other tokens than were encoded"):
            backend.model(input_ids=ids)
        reading.encode(CONVERSATIONS[:2])
        with pytest.raises(StateError, match="1 rows, and 2 conversations"):
            backend.model(input_ids=ids)


@torch.no_grad()
def test_a_packed_batch_of_other_rows_than_were_encoded_is_refused(
    backend: TransformersBackend, rows: list[Tokens]
) -> None:
    """In another order, the words of each row were taken by the turns of the other."""
    probe = make_artefact("p", backend.identity, template="chat", scope="user")
    for wrong in ([rows[2], rows[0]], [rows[0], (*rows[2][:-1], 5)], [rows[0], (*rows[2], 5)]):
        ids = torch.tensor([[token for row in wrong for token in row]], device=DEVICE)
        places = torch.tensor([[i for row in wrong for i in range(len(row))]], device=DEVICE)
        with watch(backend, [probe]) as reading:
            reading.expect([rows[0], rows[2]])
            with pytest.raises(StateError, match="holds other tokens than were encoded"):
                backend.model(input_ids=ids, position_ids=places, use_cache=False)


@torch.no_grad()
def test_more_embeddings_than_a_row_has_tokens_are_refused(
    backend: TransformersBackend, rows: list[Tokens]
) -> None:
    """Behind embeddings of its own (a learned prompt), a user's last words were the answer's."""
    probe = make_artefact("p", backend.identity, template="chat", scope="user")
    words = backend.model.get_input_embeddings()(torch.tensor([rows[0]], device=DEVICE))
    with watch(backend, [probe]) as reading:
        reading.expect([rows[0]], answering=True)
        backend.model(inputs_embeds=words)
        found = reading.verdicts()
        reading.expect([rows[0]], answering=True)
        with pytest.raises(StateError, match="holds other tokens than were encoded"):
            backend.model(inputs_embeds=torch.cat([words[:, :3], words], dim=1))
    assert_verdicts(backend, [probe], rows[:1], found)


@torch.no_grad()
@pytest.mark.parametrize("marks", [True, False])
def test_an_answer_of_embeddings_is_refused_where_it_may_hold_reasoning(marks: bool) -> None:
    """Reasoning was read as the answer's words: nothing tells it apart but its tokens."""
    backend = chat_backend("qwen3" if marks else "chatml")
    embed = backend.model.get_input_embeddings()
    row = backend.encode_chat((Turn("user", "2 + 2?"),))
    kinds = ("response", "user")
    probes = [
        make_artefact(scope, backend.identity, template="chat", scope=scope) for scope in kinds
    ]
    for some in (probes, probes[1:]):
        with watch(backend, some) as reading:
            reading.expect([row], answering=True)
            cache = backend.new_cache()
            words = embed(torch.tensor([row], device=DEVICE))
            backend.model(inputs_embeds=words, **{backend.cache_word: cache})
            words = embed(torch.tensor([[70]], device=DEVICE))
            if marks and len(some) > 1:
                with pytest.raises(StateError, match="tell its words from its reasoning"):
                    backend.model(inputs_embeds=words, **{backend.cache_word: cache})
            else:
                backend.model(inputs_embeds=words, **{backend.cache_word: cache})
                assert set(reading.verdicts()[0]) == {probe.name for probe in some}


def test_a_row_without_words_of_the_scope_is_refused_by_number(
    backend: TransformersBackend,
) -> None:
    with pytest.raises(DataError, match=r"Row 2: no turn of the tool has words"):
        encode_rows(backend, [CONVERSATIONS[0], CONVERSATIONS[2]], "chat", scopes=["tool"])
    with pytest.raises(DataError, match=r"Row 1: a text without turns has no words"):
        encode_rows(backend, ["hello"], "raw", scopes=["user"])
    with pytest.raises(DataError, match="turns need the model's chat template"):
        encode_rows(backend, [CONVERSATIONS[0]], "raw")


def test_a_conversation_that_is_too_long_loses_whole_exchanges_first(
    backend: TransformersBackend,
) -> None:
    turns = CONVERSATIONS[0]
    whole = backend.encode_chat(turns)
    room = backend.identity.context_tokens - len(whole) + 10
    (head,) = encode_rows(backend, [turns], "chat", "truncate-head", room)
    assert head == backend.encode_chat((turns[0], turns[4]))
    (tail,) = encode_rows(backend, [turns], "chat", "truncate-tail", room)
    assert len(tail) == len(whole) - 10
    assert tail.ranges("last-user")[0].start == whole.ranges("last-user")[0].start
