"""Whose words a request's tokens are, page by page, equals what a batch's masks say."""

from __future__ import annotations

import random

import pytest
import torch

from pillion.core import SCOPES, Role, Segment, Tokens
from pillion.runtime.scope_masks import ScopeMasks
from pillion.sidecache import TurnMap

MARKS = (90, 91)
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")


def some_prompt(noise: random.Random) -> Tokens:
    """Random turns of 1 to 9 tokens, parted by 0 to 3 of the template."""
    segments: list[Segment] = []
    place = noise.randrange(4)
    for turn in range(noise.randrange(1, 8)):
        role = noise.choice(ROLES)
        for kind in ("reasoning", "content") if noise.random() < 0.3 else ("content",):
            end = place + noise.randrange(1, 10)
            segments.append(Segment(place, end, role, turn, kind))
            place = end + noise.randrange(4)
    return Tokens([noise.randrange(80) for _ in range(place + 1)], segments)


def bits_of(mask: torch.Tensor) -> int:
    return sum(1 << place for place in mask.nonzero().flatten().tolist())


@pytest.mark.parametrize("reasoning", [None, MARKS])
@pytest.mark.parametrize("seed", range(8))
def test_bits_of_any_run_of_tokens_are_those_of_the_masks(
    seed: int, reasoning: tuple[int, int] | None
) -> None:
    noise = random.Random(seed)
    prompt = some_prompt(noise)
    if noise.random() < 0.5:
        prompt = Tokens([*prompt, MARKS[0]], prompt.segments)  # the template begins to reason
    answer = [noise.choice([*MARKS, *range(10)]) for _ in range(30)]
    ids = torch.tensor([[*prompt, *answer]])
    spoken = ScopeMasks.of([prompt], SCOPES[:-1], torch.device("cpu"), reasoning, answering=True)
    masks, _ = spoken.masks(torch.ones_like(ids, dtype=torch.bool), ids)

    turn_map = TurnMap(prompt, 4, reasoning)
    turn_map.extend(0, prompt)
    for start in (0, 1, 7, 5, 8, 20, 29):  # some tokens come again, as after they were put back
        turn_map.extend(len(prompt) + start, answer[start : start + 12])
    for scope, mask in masks.items():
        first = len(prompt) if scope == "response" else 0  # of a prompt it reads nothing
        for begin in range(first, ids.shape[1], 3):
            for end in (begin + 1, begin + 4, ids.shape[1]):
                want = bits_of(mask[0, begin:end])
                assert turn_map.bits(scope, begin, min(end, ids.shape[1])) == want, scope


@pytest.mark.parametrize("seed", range(8))
def test_pieces_of_a_page_are_its_turns_and_together_what_the_scope_reads(seed: int) -> None:
    prompt = some_prompt(random.Random(seed))
    turn_map = TurnMap(prompt, 8)
    for page in range(len(prompt) // 8):
        begin, end = page * 8, page * 8 + 8
        for scope in ("last-user", "user", "assistant", "tool", "system", "all"):
            pieces = turn_map.pieces(scope, page)
            bits = [piece.bits for piece in pieces]
            assert sum(bits) == turn_map.bits(scope, begin, end, every_turn=True)
            read = sum(piece.bits for piece in pieces if piece.wanted)
            assert read == turn_map.bits(scope, begin, end)
        turns = {
            s.turn
            for s in prompt.segments
            if s.role == "user" and s.kind == "content" and s.begin < end and s.end > begin
        }
        assert len(turn_map.pieces("last-user", page)) == len(turns)


@pytest.mark.parametrize("seed", range(8))
def test_of_a_whole_conversation_probes_of_answers_read_the_last_one(seed: int) -> None:
    row = some_prompt(random.Random(seed))
    turn_map, ids = TurnMap(row, 4, answering=False), torch.tensor([row])
    spoken = ScopeMasks.of([row], SCOPES[:-1], torch.device("cpu"))
    masks, _ = spoken.masks(torch.ones_like(ids, dtype=torch.bool), ids)
    for scope, mask in masks.items():
        assert turn_map.has(scope) == bool(mask.any()), scope
        for begin in range(0, len(row), 3):
            for end in (begin + 1, len(row)):
                assert turn_map.bits(scope, begin, end) == bits_of(mask[0, begin:end]), scope
    assert not any(turn_map.pieces("response", page) for page in range(len(row) // 4))
    assert not TurnMap(row, 4).has("response") and not TurnMap(row, 4).bits("response", 0, len(row))


def test_words_of_an_unknown_request_are_nobodys() -> None:
    turn_map = TurnMap(None, 4)
    assert turn_map.pieces("assistant", 3) == [] and turn_map.bits("user", 0, 99) == 0
    assert [piece.bits for piece in turn_map.pieces("all", 3)] == [0b1111]
    for scope in SCOPES[:-1]:  # however far it goes
        assert not turn_map.bits(scope, 0, 9000) and not turn_map.pieces(scope, 2000)
