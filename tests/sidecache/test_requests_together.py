"""The side cache alone: in any steps of an engine, a request's verdict is that of its tokens.

No engine runs: states are drawn at random, and steps, pages and shared prefixes are made up.
"""

from __future__ import annotations

import math

import pytest
import torch
from made_requests import (
    ALIKE,
    CPU,
    IDENTITY,
    LAYERS,
    MARKS,
    NUM_PAGES,
    SIZE,
    Run,
    answer,
    check,
    probes,
    side_cache,
    states_of,
    step,
    turns,
)

from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, Segment, Tokens
from pillion.errors import ConfigError
from pillion.probe.group import group
from pillion.sidecache import PagedGroup
from pillion.sidecache.pages import page_numbers
from tiny_models import make_artefact

TALK = turns(("system", 3), ("user", 6), ("user", 1), ("assistant", 5), ("tool", 2), ("user", 4))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("cuts", [(1,), (3, 7), (4, 8, 12), (2, 3, 5, 13, 21), ()])
def test_a_prompt_in_any_chunks_and_its_answer_are_read_by_every_scope(
    cuts: tuple[int, ...], given: bool
) -> None:
    every = probes(ALIKE) if given else probes()
    side = side_cache(every, given)
    run = Run("a", TALK, states_of(40, 1), [7, 2, 9, 0, 5, 11, 3, 8, 1, 4])
    side.enter("a", TALK)
    for begin, end in zip((0, *cuts), (*cuts, len(TALK)), strict=True):
        step(side, (run, end - begin, end == len(TALK)))
        assert (side.tracked["a"].prompt is None) == (end < len(TALK))
    check(side, run, every)
    for token in range(9):
        answer(side, run, [token])
        if token in (0, 3, 8):
            check(side, run, every)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("cuts", [(6, 14), ()])
def test_words_without_a_token_of_their_own_are_no_piece_of_a_page(
    cuts: tuple[int, ...], given: bool
) -> None:
    """A step with such a turn ended in an error, and with it every request that was in it."""
    every = probes(ALIKE) if given else probes()
    side = side_cache(every, given)
    talk = Tokens(
        range(20),
        [
            Segment(2, 5, "user", 0),
            Segment(5, 5, "user", 1),  # a space of no width, which a tokenizer leaves out
            Segment(6, 7, "assistant", 2),
            Segment(7, 7, "assistant", 2),  # the same words again, where a template has them twice
            Segment(9, 13, "user", 3),
        ],
    )
    run = Run("a", talk, states_of(30, 1), [7, 2, 9, 0, 5, 11, 3, 8])
    side.enter("a", talk)
    for begin, end in zip((0, *cuts), (*cuts, len(talk)), strict=True):
        step(side, (run, end - begin, end == len(talk)))
    check(side, run, every)
    answer(side, run, [1, 2, 3])
    check(side, run, every)


@pytest.mark.parametrize("given", [False, True])
def test_pages_that_another_request_filled_are_read_by_the_turns_of_now(given: bool) -> None:
    """The prompt's and the answer's: what was the last user's turn is an earlier one by now."""
    every = probes(ALIKE) if given else probes()
    side = side_cache(every, given)
    first = Run("a", TALK, states_of(60, 1), list(range(12)))
    side.enter("a", TALK)
    step(side, (first, len(TALK), True))
    answer(side, first, range(11))
    own = Segment(len(TALK), first.done, "assistant", 6)
    last = Segment(first.done + 1, first.done + 4, "user", 7)
    longer = Tokens(range(first.done + 5), [*TALK.segments, own, last])
    shared = first.done // SIZE
    for number, kept in enumerate((shared, shared - 1, 2)):
        pages = [*first.pages[:kept], *range(12, 24)]
        states = states_of(60, 2 + number, first.states[:, : kept * SIZE])
        second = Run(f"b{number}", longer, states, pages, done=kept * SIZE)
        side.enter(second.name, longer)
        step(side, (second, len(longer) - second.done, True))
        answer(side, second, [1, 2])
        check(side, second, every)
        side.leave(second.name)


def test_a_request_that_begins_in_the_step_in_which_its_pages_are_filled_gets_them() -> None:
    every = probes()
    side = side_cache(every)
    prompt = turns(("user", 8), ("assistant", 5))
    one = Run("one", prompt, states_of(30, 1), [0, 1, 2, 3, 4])
    two = Run("two", prompt, states_of(30, 2, one.states[:, :12]), [0, 1, 2, 5, 6], done=12)
    for run in (one, two):
        side.enter(run.name, prompt)
    step(side, (one, len(prompt), True), (two, len(prompt) - 12, True))
    check(side, one, every)
    check(side, two, every)
    for run in (one, two):
        run.answer.append(3)
    step(side, (two, 1, True), (one, 1, True))
    check(side, one, every)
    check(side, two, every)


def test_reasoning_in_an_answer_is_read_by_no_scope_but_all() -> None:
    every = probes(("gate",))
    side = side_cache(every, reasoning=MARKS)
    run = Run("a", TALK, states_of(60, 4), list(range(15)))
    side.enter("a", TALK)
    step(side, (run, len(TALK), True))
    begin = len(TALK)
    answer(side, run, [5, MARKS[0], 6, 7, MARKS[1]])
    check(side, run, every, [begin])
    answer(side, run, [8, 9])
    check(side, run, every, [begin, begin + 5, begin + 6])


def test_an_answer_that_was_put_back_is_read_anew() -> None:
    every = probes()
    side = side_cache(every)
    run = Run("a", TALK, states_of(60, 4), list(range(15)))
    side.enter("a", TALK)
    step(side, (run, len(TALK), True))
    answer(side, run, range(6))
    run.done, run.pages = 8, [0, 1, *range(15, 24)]
    step(side, (run, len(TALK) + 3 - 8, False))  # the prompt and some of its answer come again
    step(side, (run, 3, True))
    answer(side, run, [1, 2])
    check(side, run, every)

    side.again("a", TALK)
    run.answer, run.states = [], states_of(60, 5, run.states[:, : len(TALK)])
    run.done = len(TALK)
    answer(side, run, range(5))
    check(side, run, every)


def test_a_request_whose_verdicts_nobody_wants_fills_pages_for_others() -> None:
    every = probes(("gate",))
    side = side_cache(every)
    one = Run("one", TALK, states_of(40, 1), list(range(10)))
    side.enter("one", TALK, wanted=False)
    step(side, (one, len(TALK), True))
    answer(side, one, [1, 2])
    assert side.tracked["one"].prompt is None and side.tracked["one"].answer == {}
    two = Run("two", TALK, states_of(40, 2, one.states[:, :20]), [0, 1, 2, 3, 4, 12, 13], done=20)
    side.enter("two", TALK)
    step(side, (two, len(TALK) - 20, True))
    check(side, two, every)


def test_pages_of_an_unknown_request_tell_no_scope_of_turns() -> None:
    every = probes(("gate",))
    side = side_cache(every)
    stranger = Run("stranger", TALK, states_of(40, 1), list(range(10)))
    step(side, (stranger, len(TALK), True))
    run = Run("a", TALK, states_of(40, 2, stranger.states[:, :20]), [*range(5), 12, 13], done=20)
    side.enter("a", TALK)
    step(side, (run, len(TALK) - 20, True))
    tracked = side.tracked["a"]
    lost = {"system", "user", "assistant"}  # their words lie in those pages
    assert set(tracked.lost) == {f"gate-{scope}" for scope in lost}
    assert tracked.prompt is not None
    assert set(tracked.prompt) == {f"gate-{scope}" for scope in set(PROMPT_SCOPES) - lost}


def test_rows_of_those_who_left_are_used_again_once_no_step_runs_them() -> None:
    every = probes(("gate", "mha-causal"))
    side = side_cache(every, num_rows=2)
    runs = [
        Run(name, TALK, states_of(40, seed), list(range(8 * (seed % 3), 8 * (seed % 3) + 8)))
        for seed, name in enumerate("abc")
    ]
    for run in runs[:2]:
        side.enter(run.name, TALK)
    step(side, (runs[0], 9, False), (runs[1], len(TALK), True))
    rows = {name: tracked.row for name, tracked in side.tracked.items()}
    assert set(rows.values()) == {0, 1}
    side.leave("a")
    step(side, (runs[0], len(TALK) - 9, True))  # it was on its way
    check(side, runs[0], every)
    side.enter("c", TALK)
    step(side, (runs[2], len(TALK), True))
    assert set(side.tracked) == {"b", "c"} and side.tracked["c"].row == rows["a"]
    check(side, runs[2], every)
    check(side, runs[1], every)


def test_more_requests_than_there_was_room_for_make_room() -> None:
    every = probes(("gate", "mha-causal"))
    side = side_cache(every)
    prompt = turns(
        ("user", 1),
    )
    runs = [Run(f"{i}", prompt, states_of(8, i), [i, 23 - i]) for i in range(11)]
    for run in runs:
        side.enter(run.name, prompt)
    before = side.held_bytes
    step(side, *((run, len(prompt), True) for run in runs))
    assert side.held_bytes > before
    assert len({tracked.row for tracked in side.tracked.values()}) == len(runs)
    for run in runs:
        run.answer.append(1)
    step(side, *((run, 1, True) for run in runs[::-1]))
    for run in runs:
        check(side, run, every)


@pytest.mark.parametrize("bad", [0, 5, 17])
def test_states_that_are_not_finite_are_the_fault_of_their_own_request(bad: int) -> None:
    every = probes(("gate",))
    side = side_cache(every)
    one = Run("one", TALK, states_of(40, 1), list(range(10)))
    two = Run("two", TALK, states_of(40, 2), list(range(10, 20)))
    one.states[2, bad] = torch.nan
    for run in (one, two):
        side.enter(run.name, TALK)
    step(side, (two, 3, False), (one, 10, False))
    step(side, (one, len(TALK) - 10, True), (two, len(TALK) - 3, True))
    said = side.tracked["one"].fault
    where = f" of layer 2 at token {bad}" if bad >= 10 else ""  # of an earlier step nothing is left
    assert said is not None and said.startswith(f"Hidden states{where} are not finite")
    check(side, two, every)
    whole = Run("whole", TALK, one.states, list(range(10)))
    side.enter("whole", TALK)
    two.answer.append(1)
    step(side, (two, 1, True), (whole, len(TALK), True))
    said = side.tracked["whole"].fault
    assert said is not None and f"of layer 2 at token {bad} are not finite" in said
    check(side, two, every)


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
def test_infinite_states_are_a_fault_where_they_give_a_probability(bad: float) -> None:
    """The bug: an infinite logit was a verdict of 0 or 1."""
    every = [make_artefact("p", IDENTITY, "pooling")]
    side = side_cache(every)
    one = Run("one", TALK, states_of(40, 1), list(range(10)))
    two = Run("two", TALK, states_of(40, 2), list(range(10, 20)))
    one.states[2, len(TALK) - 1, 3] = two.states[2, len(TALK), 3] = bad
    for run in (one, two):
        side.enter(run.name, TALK)
    step(side, (two, len(TALK), True), (one, len(TALK), True))
    said = side.tracked["one"].fault
    assert said is not None and "of layer 2 at token" in said
    check(side, two, every)
    answer(side, two, [1])
    assert side.tracked["two"].fault is not None


def test_a_step_without_words_of_a_scope_is_not_tapped_for_it() -> None:
    every = probes(("gate",))
    side = side_cache(every)
    run = Run("a", TALK, states_of(40, 1), list(range(10)))
    side.enter("a", TALK)
    step(side, (run, 4, False))  # the template's token and the system's
    idle = {one.scope: one.idle for one in side.groups}
    assert idle == {scope: scope not in ("system", "all") for scope in SCOPES}
    step(side, (run, len(TALK) - 4, True))
    answer(side, run, [1])
    idle = {one.scope: one.idle for one in side.groups}
    assert idle == {scope: scope not in ANSWER_SCOPES for scope in SCOPES}
    check(side, run, every)


@pytest.mark.parametrize("num_rows", [0, 3, 5, 14])
def test_what_is_held_is_the_sum_of_taps_pages_and_rows(num_rows: int) -> None:
    every = probes(("gate",))
    side = side_cache(every, num_rows=num_rows)
    assert side.held_bytes == sum(one.held_bytes for one in side.groups)
    (whole,) = (one for one in side.groups if one.scope == "all")
    (answers,) = (one for one in side.groups if one.scope == "response")
    numbers = page_numbers(whole.group)
    rows = num_rows * numbers * 4
    assert whole.row_bytes == answers.row_bytes == rows
    assert answers.held_bytes == whole.group.weight_bytes + rows
    assert whole.held_bytes == answers.held_bytes + NUM_PAGES * numbers * 4
    whole.make_room(num_rows // 2)  # there is more already
    assert whole.row_bytes == rows


def test_room_for_requests_grows_from_eight_by_doubling() -> None:
    every, prompt = probes(("gate",)), turns(("user", 1))
    side = side_cache(every)
    held = {rows: side_cache(every, num_rows=rows).held_bytes for rows in (0, 8, 16)}
    assert side.held_bytes == held[0]
    for number in range(9):
        run = Run(f"{number}", prompt, states_of(8, number), [number])
        side.enter(run.name, prompt)
        step(side, (run, 2, False))
        assert side.held_bytes == held[8 if number < 8 else 16]
        assert side.tracked[run.name].row == number


def test_single_tokens_of_answers_are_read_together_and_several_of_one_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = probes()
    side = side_cache(every)
    runs = [Run(f"{i}", TALK, states_of(60, i), [*range(10 * i, 10 * i + 10)]) for i in range(2)]
    for run in runs:
        side.enter(run.name, TALK)
    step(side, *((run, len(TALK), True) for run in runs))
    with monkeypatch.context() as patch:
        patch.setattr(PagedGroup, "take", lambda *_: pytest.fail("a token was read alone"))
        for run in runs:
            run.answer.append(1)
        step(side, *((run, 1, True) for run in runs))
    for run in runs:
        run.answer += [2, 3, 4]
    step(side, (runs[1], 3, True))
    for run in runs:
        check(side, run, every)
    step(side, (runs[0], 3, True))
    check(side, runs[0], every)


def test_memory_for_a_page_holds_its_first_piece_and_a_share_of_further_ones() -> None:
    groups = {one.scope: one for one in group(probes(("gate",)), CPU, torch.float32)}
    size = page_numbers(groups["all"])
    state = groups["all"].fold.summarise(
        groups["all"].empty_values(LAYERS, 1, 1).zero_(), torch.ones(1, 1, dtype=torch.bool)
    )
    assert size == sum(tensor.numel() for tensor in state.values())
    assert page_numbers(groups["user"]) == size + math.ceil(size / 8)
    assert page_numbers(groups["response"]) == 0


def test_probes_are_grouped_by_different_names() -> None:
    gate = make_artefact("p", IDENTITY)
    with pytest.raises(ConfigError, match="Probe names must differ; got p, p"):
        group([gate, gate], CPU, torch.float32)
    assert [one.artefacts for one in group([gate], CPU, torch.float32)] == [(gate,)]


def test_an_answer_that_goes_on_behind_what_was_read_is_a_fault_of_the_engine() -> None:
    side = side_cache(probes(("gate",)))
    run = Run("a", TALK, states_of(40, 1), list(range(10)))
    side.enter("a", TALK)
    step(side, (run, len(TALK), True))
    run.answer += [1, 2]
    run.done += 1
    with pytest.raises(AssertionError, match="cached before it was read"):
        step(side, (run, 1, True))
