"""Requests that go on by one token: told and planned together, told apart where they differ."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_side_cache import CPU, DIM, IDENTITY, LAYERS

from pillion.core import Segment, Tokens
from pillion.probe.group import group
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.step import DecodeRequests, Span, StepBuilder, VllmStep
from pillion.vllm.taps import VllmTaps
from tiny_models import make_artefact

SIZE, MARKS = 4, (90, 91)


def scheduled(*each: tuple[str, int, int, Any], resumed: tuple[str, ...] = ()) -> Any:
    """An output of vLLM's scheduler: (request, begin, tokens, new blocks) of each that is known."""
    known = SimpleNamespace(
        req_ids=[name for name, *_ in each],
        num_computed_tokens=[begin for _, begin, *_ in each],
        new_block_ids=[blocks for *_, blocks in each],
        resumed_req_ids=set(resumed),
    )
    return SimpleNamespace(
        num_scheduled_tokens={name: count for name, _, count, _ in each},
        scheduled_new_reqs=[],
        scheduled_cached_reqs=known,
        finished_req_ids=set(),
    )


def request(name: str) -> Any:
    return SimpleNamespace(
        request_id=name,
        sampling_params=None,
        prompt_token_ids=[1] * 4,
        num_prompt_tokens=4,
        all_token_ids=list(range(100, 140)),
    )


def test_single_tokens_are_told_together_and_all_others_as_spans() -> None:
    steps = StepBuilder(with_ids=True)
    for name in "abcde":
        steps.enter(request(name))
    steps.skip("e")
    output = scheduled(
        ("a", 7, 1, None),
        ("b", 9, 3, ([5],)),
        ("c", 8, 1, ([6],)),
        ("d", 4, 1, ([1, 2],)),
        ("e", 3, 1, None),
        resumed=("d",),
    )
    step = steps.step(output)
    decodes = step.decodes
    assert decodes.requests == ("a", "c") and decodes.begins.tolist() == [7, 8]
    assert decodes.blocks == ((1, (6,)),) and decodes.ids == (107, 108)
    assert [(one.request, one.begin, one.end, one.blocks) for one in step.spans] == [
        ("b", 9, 12, (5,)),
        ("d", 4, 5, (1, 2)),
    ]
    assert step.spans[1].prompt is not None and step.spans[0].prompt is None
    assert step.num_tokens == 7 and step.unread_tokens == 1
    told = pickle.loads(pickle.dumps(step))
    assert told.decodes.begins.tolist() == [7, 8] and told.spans == step.spans
    alone = steps.step(scheduled(("a", 8, 1, ([7],)), ("c", 9, 1, None)))
    assert alone.decodes.requests == ("a", "c") and not alone.spans and alone.is_read
    assert not steps.step(scheduled(("e", 4, 1, None))).is_read


def reader(**options: Any) -> VllmStepReader:
    scopes: Any = ["all", "response"]
    probes = [make_artefact(s, IDENTITY, template="chat", scope=s) for s in scopes]
    taps = VllmTaps(group(probes, CPU, torch.float32), 64, CPU)
    pages = torch.full((32, taps.needs.page_numbers), torch.nan)
    return VllmStepReader(taps, pages, SIZE, max_requests=1, **options)


def run(one: VllmStepReader, step: VllmStep, states: torch.Tensor, slots: list[int]) -> Any:
    one.taps.see(list(states), torch.tensor(slots))
    report = one.read(step)
    told = pickle.loads(pickle.dumps(report)).rows()
    assert told == report.rows()
    return {read.request: (read, numbers) for read, numbers in told}


def test_reasoning_among_single_tokens_is_left_out_and_a_prompts_last_token_is_no_answer() -> None:
    one = reader(reasoning=MARKS)
    noise = torch.Generator().manual_seed(0)
    states = torch.randn(LAYERS + 1, 20, DIM, generator=noise)
    prompt = Tokens([1] * 6, [Segment(1, 5, "user", 0)])
    run(
        one,
        VllmStep((Span("a", 0, 5, (3, 9, 7, 2), prompt, (1,) * 5),)),
        states[:, :5],
        [12, 13, 14, 15, 36],
    )
    blocks, heard = [3, 9, 7, 2], list[int]()
    answer = [1, 5, MARKS[0], 6, MARKS[1], 7, 8]
    for place, token in enumerate(answer, 5):
        decodes = DecodeRequests(("a",), np.array([place]), (), (token,))
        slot = blocks[place // SIZE] * SIZE + place % SIZE
        read, numbers = run(one, VllmStep(decodes=decodes), states[:, place : place + 1], [slot])[
            "a"
        ]
        assert read.is_prompt is (place == 5) and read.num_tokens == (
            6 if place == 5 else place - 5
        )
        if place > 5 and token not in (MARKS[0], 6, MARKS[1]):
            heard.append(place)
        if place == 5 or token in (MARKS[0], 6, MARKS[1]):
            assert set(numbers) == {"all"}
            continue
        for each in one.taps.groups:
            (probe,) = each.artefacts
            own = heard if probe.name == "response" else list(range(6, place + 1))
            mask = torch.ones(1, len(own), dtype=torch.bool)
            wanted = probe.network(states[:, own][:, None], mask)[0].tolist()
            assert numbers[probe.name] == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_requests_that_join_and_leave_between_single_tokens_keep_their_own() -> None:
    """What is kept of a step for the next is dropped as soon as others go on."""
    one, states = (
        reader(),
        torch.randn(LAYERS + 1, 60, DIM, generator=torch.Generator().manual_seed(1)),
    )
    prompt, done = Tokens([1] * 3, []), {"a": 3, "b": 3, "c": 3}
    blocks = {"a": [0, 1, 2], "b": [3, 4, 5], "c": [6, 7, 8]}
    first = {"a": 0, "b": 20, "c": 40}

    def slot(name: str, place: int) -> int:
        return blocks[name][place // SIZE] * SIZE + place % SIZE

    spans = tuple(Span(name, 0, 3, (blocks[name][0],), prompt) for name in "abc")
    every = torch.cat([states[:, first[n] : first[n] + 3] for n in "abc"], 1)
    run(one, VllmStep(spans), every, [slot(n, i) for n in "abc" for i in range(3)])
    for names in ("abc", "ab", "ab", "ba", "c", "ac", "abc", "abc"):
        given = tuple(
            (i, (blocks[n][done[n] // SIZE],)) for i, n in enumerate(names) if done[n] % SIZE == 0
        )
        decodes = DecodeRequests(tuple(names), np.array([done[n] for n in names]), given)
        own = torch.stack([states[:, first[n] + done[n]] for n in names], 1)
        found = run(one, VllmStep(decodes=decodes), own, [slot(n, done[n]) for n in names])
        for name in names:
            done[name] += 1
            places = list(range(first[name] + 3, first[name] + done[name]))
            for each in one.taps.groups:
                (probe,) = each.artefacts
                mask = torch.ones(1, len(places), dtype=torch.bool)
                wanted = probe.network(states[:, places][:, None], mask)[0].tolist()
                assert found[name][1][probe.name] == pytest.approx(wanted, rel=1e-4, abs=1e-4)
