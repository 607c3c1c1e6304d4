"""The law of the side cache, as SGLang's steps drive it; without SGLang."""

from __future__ import annotations

import random

import pytest
import torch
from slots import Request, SlotEngine

from page_cache import states
from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, ModelIdentity, Segment, Tokens
from pillion.probe import Artefact
from pillion.riding.turns import PromptTurns
from pillion.sglang.adapter import Row, SglangStepReader
from pillion.sidecache.tracked import PIECE_TOKENS
from tiny_models import distance, make_artefact, offline

LAYERS, DIM = 5, 16
IDENTITY = ModelIdentity("none", "w", "t", "c", LAYERS - 1, DIM, "float32", 4096)
PROBES = [
    make_artefact("all", IDENTITY, template="chat", scope="all"),
    make_artefact("last", IDENTITY, "pooling", layers=[0, 4], template="chat", scope="last-user"),
    make_artefact("user", IDENTITY, layers=[1, 2], template="chat", scope="user", seed=1),
    make_artefact("answer", IDENTITY, template="chat", scope="response", seed=2),
    make_artefact("said", IDENTITY, layers=[3], template="chat", scope="assistant", seed=3),
    make_artefact("mha", IDENTITY, "mha", layers=[2, 4], template="chat", scope="user", seed=4),
]


def prompts(rng: random.Random) -> list[Tokens]:
    """Conversations of one beginning: two turns of the user, one of the assistant between."""
    shared = [rng.randrange(50) for _ in range(70)]
    found: list[Tokens] = []
    for _ in range(6):
        ids = shared[: rng.randrange(20, 70)] + [
            rng.randrange(50) for _ in range(rng.randrange(1, 60))
        ]
        cuts = (2, 14, 15, 18, 19, len(ids))
        roles = ("user", "assistant", "user")
        segments = [Segment(cuts[2 * i], cuts[2 * i + 1], role, i) for i, role in enumerate(roles)]
        found.append(Tokens(ids, segments))
    return [*found, found[0]]


def error(probe: Artefact, prompt: Tokens, answer: list[int], told: dict[str, object]) -> float:
    """Worst relative error of what was told; raises unless it is there just where words are."""
    every = states(LAYERS, DIM, [*prompt, *answer])
    scope, end = probe.card.scope, len(prompt) + len(answer)
    of_prompt = prompt.ranges(scope) if scope in PROMPT_SCOPES else ()
    of_answer = (range(len(prompt), end),) if scope in ANSWER_SCOPES and answer else ()
    worst = 0.0
    for part, ranges in (("prompt", of_prompt), ("response", of_answer)):
        logits = told[part]
        assert isinstance(logits, dict) and (probe.name in logits) == bool(ranges), probe.name
        if ranges:
            got = probe.probabilities(torch.tensor([logits[probe.name]]))[0]
            worst = max(worst, distance(got, offline(probe, every, ranges)))
    return worst


@pytest.mark.parametrize("page", [1, 4, 16])
def test_every_step_says_what_the_whole_text_says(page: int) -> None:
    rng = random.Random(page)
    engine = SlotEngine(PROBES, (LAYERS, DIM), page, rng)
    requests = [
        Request(str(i), PromptTurns(prompt), [rng.randrange(50) for _ in range(rng.randrange(25))])
        for i, prompt in enumerate(prompts(rng))
    ]
    for request in requests:
        engine.add(request)
    engine.run()
    assert engine.hits and engine.put_back and engine.rewritten
    for request in requests:
        told = engine.told[request.id]
        assert [one["read"] for one in told] == list(range(len(request.answer) + 1))
        for one in told[:: len(told) // 2 or 1]:
            answer = request.answer[: one["read"]]
            for probe in PROBES:
                assert error(probe, request.told.tokens, answer, one) < 1e-5


def test_a_long_prompt_is_folded_in_pieces() -> None:
    reader = SglangStepReader(PROBES[:1], torch.device("cpu"), torch.float32, 4 * PIECE_TOKENS, 1)
    prompt = Tokens([n % 50 for n in range(PIECE_TOKENS + 9)])
    every = states(LAYERS, DIM, prompt[:20])
    hidden = every.repeat(1, len(prompt) // 20 + 1, 1)[:, : len(prompt)]
    rows = [Row("a", 0, len(prompt), PromptTurns(prompt))]
    slots = torch.arange(1, len(prompt) + 1)
    reader.start(rows, slots, lambda _: slots, torch.tensor(list(prompt)))
    for layer in reader.reading.layers:
        reader.reading.see(layer, hidden[layer][None])
    reader.settle(reader.read())
    logits = reader.latest.params("a")["pillion"]["prompt"]["all"]
    got = PROBES[0].probabilities(torch.tensor([logits]))[0]
    assert distance(got, offline(PROBES[0], hidden)) < 1e-5


def test_who_has_left_makes_room(page: int = 4) -> None:
    engine = SlotEngine(PROBES[:1], (LAYERS, DIM), page, random.Random(3))
    for i in range(3):
        engine.add(Request(str(i), PromptTurns(Tokens(range(9 + i))), [1, 2]))
    engine.run()
    engine.add(Request("last", PromptTurns(Tokens(range(5))), []))
    engine.run()
    assert set(engine.reader.reading.side.tracked) == {"last"}
