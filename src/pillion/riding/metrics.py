"""Verdicts in the numbers that an engine's server has for Prometheus, beside its own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter, Histogram

from pillion.core import Verdict

VERDICTS = Counter(
    "pillion_verdicts",
    "Verdicts on whole prompts, whole responses and texts.",
    ["probe", "part", "label"],
)
SCORES = Histogram(
    "pillion_score",
    "Probabilities in those verdicts; for binary probes of the positive label only.",
    ["probe", "part", "label"],
    buckets=tuple(i / 20 for i in range(1, 21)),
)
ACTIONS = Counter("pillion_policy_actions", "Policies that acted.", ["probe", "action", "dry_run"])
SECONDS = Counter(
    "pillion_probe_seconds", "Time that the engine has spent in taps, folds and read-outs."
)
UNREAD = Counter(
    "pillion_unread", "Answers without verdicts: adapters, beam search, states not finite."
)


def count_verdicts(part: str, verdicts: Mapping[str, Verdict]) -> None:
    """Counts verdicts on a whole prompt, response or text."""
    for name, verdict in verdicts.items():
        for label in verdict.labels:
            VERDICTS.labels(name, part, label).inc()
        for label, prob in verdict.scores.items():
            SCORES.labels(name, part, label).observe(prob)


class ProbeSeconds:
    """Puts the seconds that an engine reports, counted from its start, into the counter."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def update(self, seconds: float) -> None:
        """Takes the latest figure; of several engines the largest counts."""
        if seconds > self._seconds:
            SECONDS.inc(seconds - self._seconds)
            self._seconds = seconds
