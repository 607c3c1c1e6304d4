"""What a probe says of a text: probabilities, label and decision, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ABSTAIN = "abstain"
"""The decision of a probe that leaves it to somebody else."""


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
        abstained: whether the probability lies where the probe leaves the decision to somebody
            else; None for a probe that always decides.
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


@dataclass(frozen=True)
class TokenEvent:
    """One generated token, as it leaves the model.

    Attributes:
        token_id: the token.
        text: the text that this token completed (may be empty inside a character).
        verdicts: probe name -> running verdict over the response tokens *read so far*, that is
            all before this one: a token is read in the step after the one that sampled it.
            Empty at the first token.
    """

    token_id: int
    text: str
    verdicts: Mapping[str, Verdict]
