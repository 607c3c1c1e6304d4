"""Verdicts in the numbers that `vllm serve` has for Prometheus, beside its own. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Counter

from pillion.core import Verdict

VERDICTS = Counter(
    "pillion_verdicts",
    "Verdicts on whole prompts, whole responses and texts.",
    ["probe", "part", "label"],
)
UNREAD = Counter(
    "pillion_unread", "Answers without verdicts: adapters, beam search, states not finite."
)


def count_verdicts(part: str, verdicts: Mapping[str, Verdict]) -> None:
    """Counts verdicts on a whole prompt, response or text."""
    for name, verdict in verdicts.items():
        for label in verdict.labels:
            VERDICTS.labels(name, part, label).inc()
