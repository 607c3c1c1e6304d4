"""The side cache in vLLM's steps: what it reads is what the plain definition says of texts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from paging import PagedEngine

from page_cache import states
from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, ModelIdentity, Segment, Tokens
from pillion.errors import ConfigError
from pillion.probe import AGGREGATORS, Artefact
from pillion.probe.group import Group, group
from pillion.sidecache import PagedGroup
from pillion.vllm.start import check_foldable
from pillion.vllm.taps import MemoryNeeds
from tiny_models import make_artefact

DIM, LAYERS = 16, 4
IDENTITY = ModelIdentity("none", "w", "t", "c", LAYERS, DIM, "float32", 4096)
CPU = torch.device("cpu")


def foldable(name: str) -> bool:
    try:
        check_foldable(make_artefact(name, IDENTITY, name))
    except ConfigError:
        return False
    return True


FOLDABLE = [name for name in AGGREGATORS if foldable(name)]


@cache
def probes() -> tuple[Artefact, ...]:
    """One of every kind and task, on different layers, of every scope: many groups."""
    kinds = [(name, task) for name in FOLDABLE for task in ("binary", "multiclass")]
    every = [
        make_artefact(f"{name}-{task}", IDENTITY, name, task, [0, 2, 4] if i % 3 else None, seed=i)
        for i, (name, task) in enumerate(kinds)
    ]
    some = enumerate((name, scope) for name in ("gate", "pooling") for scope in SCOPES)
    every += [
        make_artefact(f"{name}-{scope}", IDENTITY, name, seed=i, template="chat", scope=scope)
        for i, (name, scope) in some
    ]
    return tuple(every)


def groups() -> list[Group]:
    return group(probes(), CPU, torch.float32)


def turns(rng: random.Random, begin: int, end: int, first: int) -> Iterator[Segment]:
    """Random turns of a few tokens, with a few of the template's between them."""
    for turn in range(first, end):
        begin += rng.randint(0, 3)
        length = rng.randint(1, 9)
        if begin + length > end:
            return
        role: Any = rng.choice(["system", "user", "user", "assistant", "tool"])
        yield Segment(begin, begin + length, role, turn)
        begin += length


def clipped(ids: list[int], segments: list[Segment]) -> Tokens:
    """Tokens with those parts of segments that lie in them."""
    ends = [(one, min(one.end, len(ids))) for one in segments]
    return Tokens(ids, [Segment(s.begin, e, s.role, s.turn) for s, e in ends if s.begin < e])


def run(seed: int, block_tokens: int) -> tuple[PagedEngine, dict[str, tuple[Tokens, list[int]]]]:
    """An engine after eight requests, and of each its prompt and its answer; some are only read."""
    rng = random.Random(seed)
    engine = PagedEngine(groups(), DIM, block_tokens, rng)
    shared = [rng.randrange(50) for _ in range(40)]
    common = list(turns(rng, 0, 40, 0))
    talks: dict[str, tuple[Tokens, list[int]]] = {}
    for number in range(8):
        length = rng.choice([0, 8, 16, 33])
        own = [rng.randrange(50) for _ in range(rng.randint(1, 30))]
        text = shared[:length] + own
        begun = list(clipped(shared[:length], common).segments)
        segments = [*begun, *turns(rng, length, len(text), len(begun))]
        cut = rng.randint(1, len(text)) if is_answered(name := str(number)) else len(text)
        talks[name] = clipped(text[:cut], segments), text[cut:]
        engine.add(name, *talks[name], is_answered(name))
        engine.step()
    engine.run()
    return engine, talks


def is_answered(name: str) -> bool:
    """Whether an answer follows to a request, or it is a whole conversation."""
    return int(name) % 3 != 2


@torch.no_grad()
def expected(
    probe: Artefact, prompt: Tokens, answer: list[int], is_prompt: bool, answering: bool = True
) -> list[float] | None:
    """Logits by `Network.forward` on the words of the scope; None where there are none."""
    scope, asked = probe.card.scope, PROMPT_SCOPES if answering else SCOPES
    places = [i for r in prompt.ranges(scope) for i in r] if scope in asked else []
    if not is_prompt:
        end = len(prompt) + len(answer)
        places = list(range(len(prompt), end)) if scope in ANSWER_SCOPES else []
    if not places:
        return None
    every = states(LAYERS + 1, DIM, [*prompt, *answer])[:, places]
    mask = torch.ones(1, len(places), dtype=torch.bool)
    return probe.network(every[list(probe.card.layers)][:, None], mask)[0].tolist()


@pytest.mark.parametrize(("seed", "block_tokens"), [(0, 4), (1, 8), (2, 8), (3, 16), (4, 1)])
def test_any_schedule_reads_what_the_definition_says(seed: int, block_tokens: int) -> None:
    engine, talks = run(seed, block_tokens)
    assert engine.hits and engine.preemptions
    wanted = {(id, True, len(prompt)) for id, (prompt, _) in talks.items()}
    wanted |= {(id, False, n) for id, (_, more) in talks.items() for n in range(1, len(more) + 1)}
    assert set(engine.reads) == wanted
    scoped = 0
    for (id, is_prompt, count), numbers in engine.reads.items():
        prompt, answer = talks[id]
        if not is_prompt and count % 7 > 1 and count != len(answer):
            continue
        for probe in probes():
            some = [] if is_prompt else answer[:count]
            logits = expected(probe, prompt, some, is_prompt, is_answered(id))
            if logits is None or (is_prompt and probe.name in engine.lost.get(id, ())):
                assert probe.name not in numbers
            else:
                assert numbers[probe.name] == pytest.approx(logits, rel=1e-4, abs=1e-4)
                scoped += probe.card.scope != "all"
    assert scoped > 50


def test_a_step_of_many_tokens_is_folded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillion.sidecache.tracked.PIECE_TOKENS", 5)
    test_any_schedule_reads_what_the_definition_says(1, 8)


def test_an_answer_that_runs_again_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bug: vLLM may drop a token that ran and draw another; the fold held both.

    And probes of the answer left out what it filled whole blocks with.
    """
    rng = random.Random(0)
    engine = PagedEngine(groups(), DIM, 4, rng)
    prompt = Tokens(range(10), [Segment(2, 9, "user", 0)])
    monkeypatch.setattr(PagedEngine, "_may_run", lambda *_: True)
    monkeypatch.setattr(PagedEngine, "_keep", lambda self, read, n: self.reads.update({read: n}))
    engine.add("0", prompt, list(range(20, 48)))
    while engine.live[0].computed < 36:
        engine.step()
    request = engine.live[0]
    engine._release(request)
    engine.blocks.cached.clear()
    request.tokens[34:], request.is_back, request.known = [47, 48, 49], True, 35
    answer = request.tokens[10:]
    engine.run()
    (numbers,) = [n for read, n in engine.reads.items() if read.num_tokens == len(answer)]
    for probe in probes():
        logits = expected(probe, prompt, answer, False)
        assert (probe.name in numbers) == (logits is not None)
        if logits is not None:
            assert numbers[probe.name] == pytest.approx(logits, rel=1e-4, abs=1e-4)


def test_probes_of_answers_read_the_last_one_in_a_whole_conversation() -> None:
    """Blocks keep nothing of answers: who shares those of one has lost it, and says so."""
    engine = PagedEngine(groups(), DIM, 8, random.Random(0))
    ends: list[Any] = [(2, 9, "assistant"), (12, 20, "user"), (22, 43, "assistant")]
    segments = [Segment(a, b, role, turn) for turn, (a, b, role) in enumerate(ends)]
    row = Tokens(range(44), segments)
    asked = Tokens(row[:22], segments[:2])  # its blocks hold the first answer, not the last one
    for name, tokens, answering in (("a", asked, True), ("b", row, False), ("c", row, False)):
        engine.add(name, tokens, [], answering)
        engine.run()
    of_answers = [probe for probe in probes() if probe.card.scope == "response"]
    for probe in of_answers:
        assert probe.name not in engine.reads["a", True, 22]
        wanted = expected(probe, row, [], True, answering=False)
        got = engine.reads["b", True, 44][probe.name]
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-4)
        assert probe.name not in engine.reads["c", True, 44]
        assert probe.name in engine.lost["c"]
    assert engine.hits and len(of_answers) == 2


def test_more_turns_in_blocks_than_there_is_room_for_lose_verdicts_and_change_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every token is a turn: their states do not fit into vLLM's memory, and are not kept."""
    rng = random.Random(0)
    gates = [make_artefact(s, IDENTITY, template="chat", scope=s) for s in ("user", "last-user")]
    engine = PagedEngine(group(gates, CPU, torch.float32), DIM, 16, rng)
    prompt = Tokens(range(500), [Segment(n, n + 1, "user", n) for n in range(500)])
    monkeypatch.setattr(PagedEngine, "_may_run", lambda *_: True)
    for name in ("first", "second"):
        engine.add(name, prompt, [])
        engine.run()
    assert engine.hits and "user" in engine.lost["second"]
    for probe in gates:
        logits = expected(probe, prompt, [], True)
        assert engine.reads["first", True, 500][probe.name] == pytest.approx(logits, rel=1e-4)
    assert "user" not in engine.reads["second", True, 500]


def test_requests_that_are_over_leave_their_rows() -> None:
    engine, _ = run(seed=5, block_tokens=8)
    assert engine.reader.side._num_rows > 2, "more requests than expected get rows of their own"
    engine.add("next", Tokens([1, 2, 3]), [4])
    engine.run()
    assert len(engine.reader.side.tracked) <= 1 and len(engine.reader._blocks) <= 1


def test_room_is_made_for_every_value_and_state() -> None:
    needs, every = MemoryNeeds.of(groups()), [PagedGroup(one, 8, 4) for one in groups()]
    values = [len(a.card.layers) * a.network.tap().num_values for a in probes()]
    assert needs.token_numbers == sum(values)
    kept = sum(one.held_bytes - one.group.weight_bytes - one.row_bytes for one in every) / 4 / 8
    assert kept <= needs.page_numbers <= 1.2 * kept
    fewer = MemoryNeeds.of(groups()[:3])
    assert needs.holds(fewer) and not fewer.holds(needs)


@pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - set(FOLDABLE)))
def test_a_probe_that_cannot_be_folded_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Probe 'odd' .{name}. .*pillion's own engine"):
        check_foldable(make_artefact("odd", IDENTITY, name))


def test_two_probes_of_one_name_are_refused() -> None:
    twice: list[Any] = [make_artefact("same", IDENTITY, seed=i) for i in range(2)]
    with pytest.raises(ConfigError, match="same, same"):
        group(twice, CPU, torch.float32)
