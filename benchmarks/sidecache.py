"""What the side cache of the serving engines costs beside a running fold that keeps no pages.

    python -m benchmarks.sidecache [--rows 1 8 32] [--pairs 12] ...

Both tap the same states with the same code and fold the same chunks: prompts, a step of 256 tokens
shared by all rows, and answers, a token a row. The plain fold keeps a state a row and nothing of a
page: no prefix could be shared, no request put back, no scope read anew. They alternate in one
process; every ratio is of neighbours, the median is quoted. States are random: time does not
depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines import engine, model_parser
from benchmarks.plain_fold import PlainSide
from benchmarks.result_file import write_result
from benchmarks.ride import CLOCKS, compared, now, probe, prompt
from pillion.backends import Backend
from pillion.backends.paged import Chunk, PagedStep
from pillion.core import ANSWER_SCOPES, Scope, Tokens
from pillion.probe.group import group
from pillion.runtime.paged_reading import PagedReading
from pillion.sidecache import PagedGroup

SCOPES: tuple[Scope, ...] = ("all", "last-user")
PAGE_TOKENS = 16
STEP_TOKENS = 256
NUM_GATES, NUM_LABELS = 3, 4
LIMIT = 1e-4
"""How far apart probabilities of both may be."""


class Contest:
    """Both ways beside each other, on the same requests.

    Args:
        backend: whose shape the states have.
        scope: what the probes read.
        num_rows: requests that run together.
        num_tokens: of a request's prompt and answer, at most.
    """

    def __init__(self, backend: Backend, scope: Scope, num_rows: int, num_tokens: int) -> None:
        probes = [probe(backend, f"p{i}", "gate", NUM_LABELS, scope) for i in range(NUM_GATES)]
        self.backend, self.num_rows = backend, num_rows
        self.pages_each = -(-num_tokens // PAGE_TOKENS)
        self.num_pages = num_rows * self.pages_each
        groups = group(probes, backend.device, backend.dtype)
        self.plain = PlainSide(groups, num_rows)
        self.readings: list[Any] = [
            PagedReading(probes, backend.device, backend.dtype, self.num_pages, PAGE_TOKENS)
            for _ in range(2)
        ]
        self.readings[1].side = self.plain
        self.paged: Any = self.readings[0].side
        self.requests: list[str] = []
        self._states: dict[int, Tensor] = {}
        self._entered = 0

    def enter(self, tokens: Sequence[Tokens]) -> None:
        """New requests in the place of those before."""
        for request in self.requests:
            self.paged.leave(request)
            self.plain.leave(request)
        self.requests = [f"r{self._entered + i}" for i in range(len(tokens))]
        self._entered += len(tokens)
        for request, one in zip(self.requests, tokens, strict=True):
            self.paged.enter(request, one)
            self.plain.enter(request, one)

    def step(self, start: int, num_tokens: int, draws: bool) -> PagedStep:
        """So many tokens of every request, from a place on."""
        chunks, slots = list[Chunk](), list[int]()
        for row, request in enumerate(self.requests):
            chunks.append(Chunk(request, start, num_tokens, len(slots), draws))
            first = row * self.pages_each * PAGE_TOKENS + start
            slots += range(first, first + num_tokens)
        ids = torch.zeros(len(slots), dtype=torch.long)
        return PagedStep(tuple(chunks), torch.tensor(slots), lambda _: ids, ids)

    def states(self, num_tokens: int) -> Tensor:
        """Random states of all layers: [layer, 1, token, dim]."""
        if num_tokens not in self._states:
            shape = (self.backend.identity.num_layers + 1, 1, num_tokens, self.backend.identity.dim)
            states = torch.randn(shape, generator=torch.Generator().manual_seed(num_tokens))
            self._states[num_tokens] = states.to(self.backend.device, self.backend.dtype)
        return self._states[num_tokens]

    @torch.inference_mode()
    def run(self, which: int, steps: Sequence[PagedStep]) -> dict[str, float]:
        """Seconds a step, by each clock; what the probes say is there at the end of each."""
        reading, each = self.readings[which], [self.states(len(one.slots)) for one in steps]
        begin = now(self.backend)
        for step, states in zip(steps, each, strict=True):
            reading.start(step)
            for layer, hidden in enumerate(states):
                reading.see(layer, hidden)
            reading.end()
        end = now(self.backend)
        return {clock: (end[clock] - begin[clock]) / len(steps) for clock in CLOCKS}

    def check(self) -> None:
        """Raises unless both say the same of every request."""
        for request in self.requests:
            tracked = self.paged.tracked[request]
            known = {**(tracked.prompt or {}), **tracked.answer}
            told = self.plain.said[request]
            assert known.keys() == told.keys()
            for name, probs in known.items():
                apart = max(abs(a - b) for a, b in zip(probs, told[name], strict=True))
                assert apart <= LIMIT, f"{name} of {request}: {apart}"


Pair = tuple[dict[str, float], dict[str, float]]
"""Seconds a step of the side cache and of the plain fold."""


def alternately(contest: Contest, pairs: int, runs: Iterator[list[PagedStep]]) -> list[Pair]:
    """Each run by both ways, the order swapped every other time; the first one warms up."""
    found: list[Pair] = []
    for number in range(pairs + 1):
        steps, one = next(runs), dict[int, dict[str, float]]()
        for which in (0, 1) if number % 2 else (1, 0):
            one[which] = contest.run(which, steps)
        contest.check()
        found.append((one[0], one[1]))
    return found[1:]


def prompts(contest: Contest) -> Iterator[list[PagedStep]]:
    """New prompts of two chunks, of all rows at once, over the pages of those before."""
    each, count = STEP_TOKENS // contest.num_rows, contest.num_rows
    for seed in itertools.count(step=count):
        contest.enter([prompt(2 * each, seed + i) for i in range(count)])
        yield [contest.step(0, each, False), contest.step(each, each, True)]


def answers(contest: Contest, num_steps: int) -> Iterator[list[PagedStep]]:
    """Answers to short prompts that go on and on, a token of every row a step."""
    contest.enter([prompt(PAGE_TOKENS, i) for i in range(contest.num_rows)])
    for which in (0, 1):
        contest.run(which, [contest.step(0, PAGE_TOKENS, True)])
    for place in itertools.count(PAGE_TOKENS, num_steps):
        yield [contest.step(place + i, 1, True) for i in range(num_steps)]


def times(contest: Contest, scope: Scope, pairs: int, num_steps: int) -> list[dict[str, Any]]:
    """Milliseconds a step while prompts are read, and while answers go on."""
    found: list[dict[str, Any]] = []
    for phase, runs in (("prompt", prompts(contest)), ("answer", answers(contest, num_steps))):
        measured = alternately(contest, pairs, runs)
        reads = phase == "prompt" or scope in ANSWER_SCOPES
        for clock in CLOCKS:
            row = compared([(plain[clock], paged[clock]) for paged, plain in measured])
            if not reads:  # nothing by nothing
                row |= {"ratio": None, "interval": None}
            where = {"phase": phase, "scope": scope, "rows": contest.num_rows}
            found.append({"metric": f"{clock}ms_per_step", **row, **where})
    return found


def sizes(contest: Contest, scope: Scope) -> list[dict[str, Any]]:
    """Bytes a token and a row: of the side cache, of the plain fold, of all values in its place."""
    groups: list[PagedGroup] = contest.paged.groups
    kept = sum(one.held_bytes - one.group.weight_bytes - one.row_bytes for one in groups)
    values = sum(4 * one.group.num_values * len(one.layers) for one in groups)
    a_token = kept / (contest.num_pages * PAGE_TOKENS)
    rows = [
        sum(one.row_bytes for one in groups) / (len(groups[0].memory()[0]) - 1),
        sum(one.folds.held_bytes for one in contest.plain.groups) / contest.num_rows,
    ]
    where = {"scope": scope, "rows": contest.num_rows, "interval": None}
    return [
        {
            "metric": "bytes_per_token",
            "value": a_token,
            "bare": 0,
            "baseline": values,
            "ratio": a_token / values,
            **where,
        },
        {
            "metric": "bytes_per_row",
            "value": rows[0],
            "bare": rows[1],
            "ratio": rows[0] / rows[1],
            **where,
        },
    ]


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=32, help="Tokens of each run of answers.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    backend = engine(options.model, options.device)
    results: list[dict[str, Any]] = []
    for scope in SCOPES:
        for num_rows in options.rows:
            most = max(2 * STEP_TOKENS // num_rows, PAGE_TOKENS)
            most = max(most, PAGE_TOKENS + (options.pairs + 1) * options.steps)
            contest = Contest(backend, scope, num_rows, most)
            rows = times(contest, scope, options.pairs, options.steps) + sizes(contest, scope)
            for row in rows:
                print({k: v for k, v in row.items() if k != "interval"}, flush=True)
            results += rows
    settings = vars(options) | {
        "dtype": str(backend.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "gates": NUM_GATES,
        "labels": NUM_LABELS,
        "page_tokens": PAGE_TOKENS,
        "step_tokens": STEP_TOKENS,
    }
    write_result(f"sidecache-{options.model}", results, seed=0, settings=settings)


if __name__ == "__main__":
    main()
