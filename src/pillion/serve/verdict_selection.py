"""Which verdicts a client asks for: of which probes, and at which thresholds.

Policies see every probe, at the operator's thresholds: no client can turn them off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import quote

from pillion.core import Verdict
from pillion.probe import Artefact
from pillion.serve.answers import Json
from pillion.serve.classify import require_probes
from pillion.serve.keys import Caller
from pillion.serve.refusal import Refused
from pillion.serve.requests import VerdictOptions
from pillion.serve.service import Service

T = TypeVar("T")


@dataclass(frozen=True)
class VerdictSelection:
    """The verdicts that a client gets.

    Attributes:
        probes: names of those that are told; None: all.
        thresholds: probe -> the probability from which its positive label is told.
    """

    probes: frozenset[str] | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict[str, float])

    def some(self, told: Mapping[str, T]) -> dict[str, T]:
        """The entries of a mapping, by probe, that the client gets."""
        return {n: one for n, one in told.items() if self.probes is None or n in self.probes}

    def of(self, verdicts: Mapping[str, Verdict]) -> Mapping[str, Verdict]:
        """The verdicts that the client gets, at its thresholds."""
        if self.probes is None and not self.thresholds:
            return verdicts
        return {name: self._at(name, verdict) for name, verdict in self.some(verdicts).items()}

    def _at(self, name: str, verdict: Verdict) -> Verdict:
        if name not in self.thresholds:
            return verdict
        least, (negative, positive) = self.thresholds[name], tuple(verdict.probs)
        label = positive if verdict.probs[positive] >= least else negative
        return replace(verdict, label=label, labels=(label,), threshold=least)


def selection_of(
    service: Service, caller: Caller, wanted: VerdictOptions | None
) -> VerdictSelection:
    """The selection that a request asks for.

    Raises:
        Refused: 403, a key that may have none; 404, a probe that does not ride; 400, a threshold
            for a probe that has none to change.
    """
    if wanted is None or (wanted.probes is None and not wanted.thresholds):
        return VerdictSelection()
    if not caller.chooses:
        raise Refused(
            403,
            "This key may not choose probes and thresholds; use one with the word choose, or leave "
            "pillion out.",
            "choice_not_allowed",
            "pillion",
        )
    thresholds = wanted.thresholds or {}
    require_probes(service, [*(wanted.probes or ()), *thresholds], "pillion")
    for name in thresholds:
        _check_binary(service.engine.probes[name])
    return VerdictSelection(None if wanted.probes is None else frozenset(wanted.probes), thresholds)


def _check_binary(probe: Artefact) -> None:
    if probe.card.task != "binary":
        raise Refused(
            400,
            f"Probe {probe.name!r} is {probe.card.task} and has no single threshold; name binary "
            "ones.",
            "invalid_value",
            "pillion",
        )


def verdict_headers(verdicts: Json) -> dict[str, str]:
    """`x-pillion-verdict-NAME`: what a probe says of each part, for clients that drop fields.

    `label;p=0.98;part=prompt`, several separated by `, `; a label is percent-encoded.
    """
    found: dict[str, list[str]] = {}
    for part in ("prompt", "tool", "response"):
        for name, told in verdicts.get(part, {}).items():
            labels = told["label"] if isinstance(told["label"], list) else [told["label"]]
            for label in labels:
                if label is not None:
                    item = f"{quote(label, safe='')};p={told['probs'][label]:.4g};part={part}"
                    found.setdefault(f"x-pillion-verdict-{quote(name, safe='')}", []).append(item)
    return {name: ", ".join(items) for name, items in found.items()}
