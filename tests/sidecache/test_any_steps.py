"""Random requests in random steps: in each, a request's verdict is that of its own tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from made_requests import MARKS, Run, check, probes, side_cache, states_of, step

from pillion.core import Role, Segment, Tokens
from pillion.probe import Artefact
from pillion.sidecache import SideCache

ROLES: tuple[Role, ...] = ("system", "user", "user", "assistant", "tool")
ROOM = 24
"""Tokens that an answer may have."""


def read_places(run: Run) -> list[int]:
    """Places of the tokens of an answer that are no reasoning, nor the marks around it."""
    inside, found = False, list[int]()
    for place, token in enumerate(run.answer, len(run.prompt)):
        if token in MARKS:
            inside = token == MARKS[0]
        elif not inside:
            found.append(place)
    return found


class Play:
    """An engine that does whatever it likes, with pages in no order.

    Args:
        seed: of everything that it does.
        size: tokens a page.
        longest: of a turn, in tokens.
        every: probes that ride.
        reasons: whether answers reason, now and then.
    """

    def __init__(
        self, seed: int, size: int, longest: int, every: Sequence[Artefact], reasons: bool = False
    ) -> None:
        self.ids = (1, 2, 3, *MARKS) if reasons else (1,)
        self.noise, self.size, self.longest = random.Random(seed), size, longest
        self.every, self.over = every, list[Run]()
        self.num_pages = 2000
        self.free = self.noise.sample(range(self.num_pages), self.num_pages)
        self.side: SideCache = side_cache(
            every, size=size, num_pages=self.num_pages, reasoning=MARKS if reasons else None
        )

    def turns(self, segments: list[Segment], place: int) -> Tokens:
        """A conversation that goes on from a place on by a few turns."""
        first = segments[-1].turn + 1 if segments else 0
        for turn in range(first, first + self.noise.randrange(1, 5)):
            place += self.noise.randrange(1, 4)  # of the template
            end = place + self.noise.randrange(1, self.longest)
            segments.append(Segment(place, end, self.noise.choice(ROLES), turn))
            place = end
        return Tokens([0] * (place + self.noise.randrange(1, 3)), segments)

    def request(self, name: str) -> Run:
        """A new one, or one that goes on from another and has whole pages of it."""
        before = self.noise.choice(self.over) if self.over and self.noise.random() < 0.7 else None
        if before is None:
            prompt, kept, states = self.turns([], 0), 0, None
        else:
            turn = before.prompt.segments[-1].turn + 1
            own = [Segment(place, place + 1, "assistant", turn) for place in read_places(before)]
            prompt = self.turns([*before.prompt.segments, *own], before.done)
            kept = self.noise.randint(0, before.done // self.size)
            states = before.states[:, : kept * self.size]
        length = len(prompt) + ROOM
        pages = self.pages(-(-length // self.size) - kept)
        run = Run(
            name,
            prompt,
            states_of(length, self.noise.randrange(10**6), states),
            [*(before.pages[:kept] if before else ()), *pages],
            kept * self.size,
            size=self.size,
        )
        self.side.enter(name, prompt)
        return run

    def pages(self, count: int) -> list[int]:
        return [self.free.pop() for _ in range(count)]

    def part(self, run: Run) -> tuple[Run, int, bool]:
        """Some tokens of a request, which may have been put back before."""
        noise = self.noise
        if noise.random() < 0.08 and run.done < run.states.shape[1] - ROOM // 2:
            kept = noise.randint(0, run.done // self.size)
            run.pages[kept:] = self.pages(len(run.pages) - kept)
            run.done = kept * self.size
        whole = len(run.prompt) + len(run.answer)
        if run.done < whole:
            count = min(noise.randint(1, 3 * self.longest), whole - run.done)
            return run, count, run.done + count == whole
        count = noise.choice((1, 1, 1, 2, 5))
        run.answer += self.noise.choices(self.ids, k=count)
        return run, count, True

    def wave(self, number: int) -> None:
        """A few requests from their beginning to the end of their answers."""
        runs = [self.request(f"{number}.{i}") for i in range(self.noise.randint(2, 4))]
        wanted = {run.name: self.noise.randint(0, ROOM - 6) for run in runs}
        running = list(runs)
        while running:
            some = self.noise.sample(running, self.noise.randint(1, len(running)))
            parts = [self.part(run) for run in some]
            step(self.side, *parts)
            for run, _, draws in parts:
                if draws and self.noise.random() < 0.3:
                    check(self.side, run, self.every, read_places(run))
            ended = [r for r, _, draws in parts if draws and len(r.answer) >= wanted[r.name]]
            for run in ended:
                check(self.side, run, self.every, read_places(run))
                self.side.leave(run.name)
                running.remove(run)
        self.over += [run for run in runs if run.done > len(run.prompt)]


@pytest.mark.parametrize("size", [5, 7])
@pytest.mark.parametrize("seed", range(3))
def test_requests_that_share_pages_and_are_put_back_say_what_their_tokens_say(
    seed: int, size: int
) -> None:
    play = Play(seed, size, 7, probes(("gate",)), reasons=seed > 0)
    for number in range(3):
        play.wave(number)
    assert len(play.over) > 2


def test_so_do_folds_whose_states_grow() -> None:
    play = Play(0, 5, 6, probes(("mha-causal", "rolling")))
    for number in range(2):
        play.wave(number)


def test_so_do_requests_of_hundreds_of_tokens() -> None:
    play = Play(6, 270, 300, probes(("gate",)))
    for number in range(2):
        play.wave(number)
    assert max(len(run.prompt) for run in play.over) > 500
