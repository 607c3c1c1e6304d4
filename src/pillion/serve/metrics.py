"""Numbers for Prometheus. One registry a server, so that several may live in a process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pillion.core import Verdict
from pillion.runtime import EngineStats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SCORES = tuple(i / 20 for i in range(1, 21))


class Metrics:
    """What the server counts, and what it reads from the engine when it is asked.

    Args:
        stats: the engine's counters, now.
        waiting: how many requests wait, now.
    """

    def __init__(self, stats: Callable[[], EngineStats], waiting: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_EngineNumbers(stats, waiting))  # type: ignore[arg-type]
        of: Any = {"registry": self.registry}
        self.requests = Counter("pillion_requests", "Requests answered.", ["route", "status"], **of)
        self.request_seconds = Histogram(
            "pillion_request_seconds",
            "From a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            **of,
        )
        self.first_token_seconds = Histogram(
            "pillion_time_to_first_token_seconds",
            "From a request to its first token.",
            buckets=SECONDS,
            **of,
        )
        self.token_gap_seconds = Histogram(
            "pillion_time_between_tokens_seconds",
            "Between two tokens of an answer.",
            buckets=SECONDS,
            **of,
        )
        self.verdicts = Counter(
            "pillion_verdicts",
            "Verdicts on whole prompts and whole responses.",
            ["probe", "part", "label"],
            **of,
        )
        self.scores = Histogram(
            "pillion_score",
            "Probabilities in those verdicts; for binary probes of the positive label only.",
            ["probe", "part", "label"],
            buckets=SCORES,
            **of,
        )
        self.actions = Counter(
            "pillion_policy_actions",
            "Policies that acted, or would have in a dry run.",
            ["probe", "action", "dry_run"],
            **of,
        )
        self.judged = Counter(
            "pillion_judge_answers", "What judges said.", ["judge", "answer"], **of
        )

    def count_verdicts(self, part: str, verdicts: Mapping[str, Verdict]) -> None:
        """Counts the verdicts on a whole prompt or response."""
        for name, verdict in verdicts.items():
            for label in verdict.labels:
                self.verdicts.labels(name, part, label).inc()
            for label, prob in verdict.scores.items():
                self.scores.labels(name, part, label).observe(prob)

    def text(self) -> bytes:
        """All numbers, in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineNumbers:
    """Read from the engine when Prometheus asks. A collector."""

    def __init__(self, stats: Callable[[], EngineStats], waiting: Callable[[], int]) -> None:
        self.stats, self.waiting = stats, waiting
        self._last = (time.monotonic(), 0)
        self._rate = 0.0

    def describe(self) -> Iterable[Metric]:
        """Nothing: names need not be known beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The numbers, as they are now."""
        stats = self.stats()
        gauges = {
            "queue": ("Requests that wait to begin.", self.waiting()),
            "running": ("Requests in flight in the engine.", stats.running),
            "tokens_per_second": (
                "Tokens generated a second, since the last time this was asked.",
                self._tokens_per_second(stats.generated_tokens),
            ),
        }
        counters = {
            "prompt_tokens": ("Prompt tokens taken in.", stats.prompt_tokens),
            "cached_tokens": ("Prompt tokens from the prefix cache.", stats.cached_tokens),
            "generated_tokens": ("Tokens generated.", stats.generated_tokens),
            "preemptions": ("Requests put back and begun again.", stats.preemptions),
            "probe_seconds": ("Time spent in taps, folds and read-outs.", stats.probe_seconds),
        }
        for name, (help, value) in gauges.items():
            yield GaugeMetricFamily(f"pillion_{name}", help, value)
        for name, (help, value) in counters.items():
            yield CounterMetricFamily(f"pillion_{name}", help, value)

    def _tokens_per_second(self, tokens: int) -> float:
        (then, before), now = self._last, time.monotonic()
        if now - then >= 1:  # two askers within a second see the same number
            self._rate, self._last = (tokens - before) / (now - then), (now, tokens)
        return self._rate
