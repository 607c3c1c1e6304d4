"""What a probe says of a text: probabilities, label and decision, as frozen values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

ABSTAIN = "abstain"
"""The decision of a probe that abstains."""

NOTHING: Mapping[str, Any] = {"label": None, "probs": None, "threshold": None}
"""In the place of a verdict, beside what says why there is none."""


@dataclass(frozen=True)
class Verdict:
    """One probe's answer for one text (or for what has been read of it so far).

    Attributes:
        probe: name of the probe.
        label: the decided label; for a multi-label probe the decided labels, joined by `,`.
        probs: label -> probability in [0, 1].
        threshold: the probability from which a binary probe decides for its positive label; None
            for multi-class (the largest decides) and multi-label (each label has its own).
        labels: the decided labels: one, or any number for a multi-label probe.
        abstained: whether the probability lies in the band where the probe does not decide; None
            for a probe that always decides.
        prediction_set: the labels that the text may have, at the coverage on the probe's card; None
            for a probe without.
    """

    probe: str
    label: str
    probs: Mapping[str, float]
    threshold: float | None
    labels: tuple[str, ...]
    abstained: bool | None = None
    prediction_set: tuple[str, ...] | None = None

    @property
    def decision(self) -> str:
        """The label to act on, or `abstain`. A label may have that name: `abstained` tells."""
        return ABSTAIN if self.abstained else self.label

    @property
    def scores(self) -> Mapping[str, float]:
        """Probabilities that do not follow from others: of a binary probe the positive label's."""
        if self.threshold is None:
            return self.probs
        *_, positive = self.probs
        return {positive: self.probs[positive]}


def verdict_json(verdict: Verdict, multilabel: bool = False) -> dict[str, Any]:
    """A verdict as JSON: `label` (a list for a multi-label probe), `probs`, `threshold`.

    A probe that may abstain adds `decision` (the label, or `abstain`), one with conformal sets
    `prediction_set`.
    """
    label = list(verdict.labels) if multilabel else verdict.label
    content: dict[str, Any] = {
        "label": label,
        "probs": {label: round(prob, 6) for label, prob in verdict.probs.items()},
        "threshold": verdict.threshold,
    }
    if verdict.abstained is not None:
        content["decision"] = verdict.decision if verdict.abstained else label
    if verdict.prediction_set is not None:
        content["prediction_set"] = list(verdict.prediction_set)
    return content


def verdicts_json(
    verdicts: Mapping[str, Verdict],
    multilabel: Collection[str] = (),
    absences: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Probe -> its verdict as `verdict_json`; nulls and a `reason` where there is none.

    Args:
        verdicts: probe -> verdict.
        multilabel: names of the probes whose label is a list.
        absences: probe -> why it gave none.
    """
    said = {name: verdict_json(verdict, name in multilabel) for name, verdict in verdicts.items()}
    return said | {name: {**NOTHING, "reason": why} for name, why in (absences or {}).items()}
