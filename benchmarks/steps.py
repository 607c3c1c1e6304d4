"""What the host spends on a decoding step in vLLM: microseconds of every part, request by request.

    python -m benchmarks.steps [--rounds 40] [--requests 1 64] [--write]

A scheduler's output goes the way that it goes in vLLM: it is told as a step, planned by a worker's
side cache, computed (the tensor operations of the folds alone), and put on every output by the
latest. Between processes (tensor parallelism) steps and reports are packed as well. Tensors are as
small as they can be: a gate on two layers, on the processor. Requests are at different places of
their blocks. Time is the thread's own; numbers of requests alternate in one process. The median of
all steps is kept, and the quickest tenth, as others may share the caches. `host` is all but what is
computed and packed.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.result_file import write_result
from benchmarks.vllm_ride import BLOCK_TOKENS, gates
from pillion.core import ModelIdentity
from pillion.probe.group import group
from pillion.riding.latest_logits import LatestLogits
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.step import StepBuilder
from pillion.vllm.taps import VllmTaps

CPU = torch.device("cpu")
IDENTITY = ModelIdentity("tiny", "", "", "", 1, 8, "float32", 8192)
PROMPT_TOKENS, PARTS = 20, ("told", "planned", "computed", "reported", "packed")


class Decoding:
    """Requests that decode together, a token a step, from scheduler to scheduler.

    Args:
        num_requests: how many.
        num_steps: that they will run.
    """

    def __init__(self, num_requests: int, num_steps: int) -> None:
        self.size = num_requests
        self.names = [f"request-{i}-0123456789abcdef" for i in range(num_requests)]
        self.blocks_each = -(-(PROMPT_TOKENS + num_steps) // BLOCK_TOKENS) + 2
        taps = VllmTaps(group(gates(IDENTITY, 1), CPU, torch.float32), 4096, CPU)
        pages = torch.zeros(num_requests * self.blocks_each, taps.needs.page_numbers)
        self.taps, self.reader = taps, VllmStepReader(taps, pages, BLOCK_TOKENS, num_requests)
        self.steps, self.latest = StepBuilder(with_ids=False), LatestLogits()
        self.done = [PROMPT_TOKENS + number % BLOCK_TOKENS for number in range(num_requests)]
        self.times: dict[str, list[float]] = {part: [] for part in PARTS}
        self._computed = 0.0
        for each in self.reader.side.groups:
            self._watch(each)
        self._begin()

    def step(self) -> None:
        """One token of every request; takes the time of every part."""
        output = self._output()
        self._see([(done, done + 1) for done in self.done])
        self.done = [done + 1 for done in self.done]
        step, told = timed(lambda: self.steps.step(output))
        step, packed = timed(lambda: pickle.loads(pickle.dumps(step, protocol=5)))
        self._computed = 0.0
        report, read = timed(lambda: self.reader.read(step))
        report, back = timed(lambda: pickle.loads(pickle.dumps(report, protocol=5)))
        _, reported = timed(lambda: self._report(report))
        parts = told, read - self._computed, self._computed, reported, packed + back
        for part, seconds in zip(PARTS, parts, strict=True):
            self.times[part].append(seconds)

    def _watch(self, group: Any) -> None:
        plain = group.run

        def run(*arguments: Any) -> Any:
            found, seconds = timed(lambda: plain(*arguments))
            self._computed += seconds
            return found

        group.run = run

    def _begin(self) -> None:
        new: list[Any] = []
        for number, (name, done) in enumerate(zip(self.names, self.done, strict=True)):
            request = SimpleNamespace(
                request_id=name,
                sampling_params=None,
                prompt_token_ids=[0] * done,
                num_prompt_tokens=done,
            )
            self.steps.enter(request)
            self.latest.enter(name)
            first = number * self.blocks_each
            blocks = list(range(first, first + -(-done // BLOCK_TOKENS)))
            new.append(SimpleNamespace(req_id=name, num_computed_tokens=0, block_ids=(blocks,)))
        none = SimpleNamespace(
            req_ids=[], num_computed_tokens=[], new_block_ids=[], resumed_req_ids=set[str]()
        )
        output = self._scheduled(new, none, dict(zip(self.names, self.done, strict=True)))
        self._see([(0, done) for done in self.done])
        self._report(self.reader.read(self.steps.step(output)))

    def _output(self) -> Any:
        blocks: list[Any] = []
        for number, done in enumerate(self.done):
            place, offset = divmod(done, BLOCK_TOKENS)
            blocks.append(None if offset else ([number * self.blocks_each + place],))
        known = SimpleNamespace(
            req_ids=list(self.names),
            num_computed_tokens=list(self.done),
            new_block_ids=blocks,
            resumed_req_ids=set[str](),
        )
        return self._scheduled([], known, dict.fromkeys(self.names, 1))

    @staticmethod
    def _scheduled(new: Sequence[Any], known: Any, counts: dict[str, int]) -> Any:
        return SimpleNamespace(
            num_scheduled_tokens=counts,
            total_num_scheduled_tokens=sum(counts.values()),
            scheduled_new_reqs=new,
            scheduled_cached_reqs=known,
            finished_req_ids=set[str](),
        )

    def _see(self, tokens: Sequence[tuple[int, int]]) -> None:
        """The forward pass, whose own work is not what is timed here."""
        every = [
            number * self.blocks_each * BLOCK_TOKENS + place
            for number, (begin, end) in enumerate(tokens)
            for place in range(begin, end)
        ]
        self.taps.slots[: len(every)] = torch.tensor(every)

    def _report(self, report: Any) -> None:
        self.latest.add(report.rows(), report.seconds)
        for name in self.names:
            self.latest.params(name)
        self.latest.forget()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What is called for, and the seconds that this thread took for it."""
    begin = time.thread_time()
    found = call()
    return found, time.thread_time() - begin


def measured(requests: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Microseconds of every part of a step, for each number of requests, in turns."""
    num_steps = (rounds + 1) * BLOCK_TOKENS
    all_of = {number: Decoding(number, num_steps) for number in requests}
    for turn in range(rounds + 1):
        for number in requests if turn % 2 else list(reversed(requests)):
            for _ in range(BLOCK_TOKENS):
                all_of[number].step()
            if not turn:  # the first warms up
                all_of[number].times = {part: [] for part in PARTS}
    return [
        row
        for number, decoding in all_of.items()
        for row in _figures(number, decoding.times, rounds * BLOCK_TOKENS)
    ]


def _figures(number: int, times: dict[str, list[float]], steps: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    host = zip(times["told"], times["planned"], times["reported"], strict=True)
    for part, seconds in {**times, "host": list(map(sum, host))}.items():
        ordered = sorted(1e6 * one for one in seconds)
        rows.append(
            {
                "kind": "microseconds",
                "requests": number,
                "part": part,
                "value": statistics.median(ordered),
                "quiet": ordered[len(ordered) // 10],
                "interval": [ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]],
                "steps": steps,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--write", action="store_true", help="Write the result file.")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(chosen.requests, chosen.rounds)
    for row in rows:
        print(
            f"{row['requests']:3} requests {row['part']:>9}: {row['value']:7.1f} us "
            f"(quiet {row['quiet']:.1f}, quartiles {row['interval'][0]:.1f} to "
            f"{row['interval'][1]:.1f})"
        )
    if chosen.write:
        settings = {"rounds": chosen.rounds, "block_tokens": BLOCK_TOKENS}
        write_result("vllm-steps", rows, seed=0, settings=settings)


if __name__ == "__main__":
    main()
