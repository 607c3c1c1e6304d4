"""Keeps canaries at training, and runs them through any model or engine that will serve a probe.

What fingerprints cannot see is seen in what the probe says: another attention kernel, weights or a
cache of fewer bits, an adapter, another chat template or tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, runtime_checkable

import torch

from pillion.backends import Backend, Coder
from pillion.backends.codec import on_day
from pillion.core import Conversation, Template, Tokens, Verdict
from pillion.errors import ConfigError, DataError, MismatchError
from pillion.probe import Artefact
from pillion.probe.canaries import (
    NUM_CANARIES,
    Canaries,
    Canary,
    CanaryTurn,
    candidates,
    difference,
    logits_of,
)

DAY = datetime(2024, 7, 26, tzinfo=UTC)
"""Any day, always the same: a template that writes today's date is not another one tomorrow."""

ADVICE = (
    "Attention, precision of weights or cache, adapters, chat template or tokenizer are not what "
    "they were; load the model as it was, train again, or go without the check."
)


@runtime_checkable
class Scorer(Protocol):
    """A `LanguageModel`, as far as it is needed here."""

    backend: Backend

    def score_rows(
        self,
        rows: Sequence[Sequence[int]],
        probes: Sequence[Artefact],
        progress: Callable[[int, int], None] | None = None,
        allow_mismatch: bool = False,
    ) -> list[dict[str, Verdict]]:
        """Verdicts of rows of tokens."""
        ...


@dataclass(frozen=True)
class Checked:
    """What the canaries of a probe say of the place that it is loaded into.

    Attributes:
        probe: its name.
        difference: largest difference in its logits from those on its card; None without canaries.
        tolerance: what rounding may make.
    """

    probe: str
    difference: float | None
    tolerance: float = 0.0

    @property
    def note(self) -> str | None:
        """A sentence for a probe that cannot be checked."""
        if self.difference is not None:
            return None
        return (
            f"Probe {self.probe!r} has no canaries on its card, so that only its fingerprints "
            "were checked; train it again to have some."
        )


def with_canaries(model: Scorer, artefacts: Sequence[Artefact]) -> list[Artefact]:
    """Probes that have just been trained on a model, with canaries on their cards.

    All read the same scope, as those of one training do.
    """
    if not artefacts:
        return []
    card = artefacts[0].card
    kept = list[Conversation]()
    rows = list[Tokens]()
    for text in candidates(card.scope, card.template == "chat"):
        tokens = _tokens(model.backend, text, card.template)
        if len(rows) < NUM_CANARIES and isinstance(tokens, Tokens) and tokens.ranges(card.scope):
            kept.append(text)
            rows.append(tokens)
    if not rows:
        return list(artefacts)
    plain = [replace(one, name=str(i)) for i, one in enumerate(artefacts)]
    found = model.score_rows(rows, plain)
    dtype = str(model.backend.dtype).removeprefix("torch.")
    out = list[Artefact]()
    for i, artefact in enumerate(artefacts):
        texts = tuple(
            Canary(
                turns=tuple(CanaryTurn(role=t.role, content=t.content) for t in text),
                logits=logits_of(artefact.card.task, _probs(artefact, verdicts[str(i)])),
            )
            for text, verdicts in zip(kept, found, strict=True)
        )
        out.append(artefact.revised(canaries=Canaries(dtype=dtype, texts=texts)))
    return out


def check_canaries(
    model: Scorer, artefacts: Sequence[Artefact], allow_mismatch: bool = False
) -> list[Checked]:
    """Runs the canaries of probes through a model.

    Args:
        model: that reads them.
        artefacts: the probes.
        allow_mismatch: only warn of probes whose fingerprints are another model's.

    Raises:
        MismatchError: a probe says something else than it did, naming it and by how much.
    """
    dtype = str(model.backend.dtype).removeprefix("torch.")
    groups: dict[tuple[Tokens, ...], list[int]] = {}  # by their texts, which are read once
    for place, artefact in enumerate(artefacts):
        groups.setdefault(tuple(canary_rows(artefact, model.backend) or ()), []).append(place)
    out = [Checked(artefact.name, None) for artefact in artefacts]
    for rows, places in groups.items():
        if not rows:
            continue
        own = [artefacts[place] for place in places]
        found = model.score_rows(rows, own, allow_mismatch=allow_mismatch)
        for place, one in zip(places, own, strict=True):
            out[place] = compared(one, [row[one.name] for row in found], dtype)
    return out


def canary_rows(artefact: Artefact, coder: Coder) -> list[Tokens] | None:
    """Tokens of a probe's canaries; None if it has none."""
    canaries = artefact.card.canaries
    if canaries is None:
        return None
    out = list[Tokens]()
    for number, canary in enumerate(canaries.texts, start=1):
        tokens = _tokens(coder, canary.conversation, artefact.card.template)
        if isinstance(tokens, Exception) or not tokens.ranges(artefact.card.scope):
            why = f" ({tokens})" if isinstance(tokens, Exception) else ""
            raise MismatchError(
                f"Canary text {number} of probe {artefact.name!r} cannot be read here{why}, and "
                f"could when it was trained. {ADVICE}"
            )
        out.append(tokens)
    return out


def _tokens(
    coder: Coder, text: Conversation, template: Template
) -> Tokens | ConfigError | DataError:
    try:
        if template == "raw":
            return coder.encode(text[0].content, "raw")
        with on_day(DAY):
            return coder.encode_chat(text)
    except (ConfigError, DataError) as error:  # a template may refuse turns of some roles
        return error


def _probs(artefact: Artefact, verdict: Verdict) -> torch.Tensor:
    """An output each, as the network has them."""
    labels = artefact.card.labels[-1:] if artefact.card.task == "binary" else artefact.card.labels
    return torch.tensor([verdict.probs[label] for label in labels])


def compared(artefact: Artefact, verdicts: Sequence[Verdict], dtype: str) -> Checked:
    """What a probe says of its canaries, beside what it said.

    Args:
        artefact: with canaries.
        verdicts: of them, in their order.
        dtype: that the model computes in.

    Raises:
        MismatchError: it says something else.
    """
    canaries = artefact.card.canaries
    assert canaries is not None
    found = differences(artefact, canaries, verdicts)
    worst, tolerance = max(found), canaries.tolerance(dtype)
    if worst <= tolerance:
        return Checked(artefact.name, worst, tolerance)
    raise MismatchError(
        f"Probe {artefact.name!r} does not say here what it said when it was trained: "
        f"{sum(one > tolerance for one in found)} of its {len(found)} canary texts are "
        f"off, by up to {worst:.2g} in the logits, where rounding makes {tolerance:.2g}. {ADVICE}"
    )


def differences(artefact: Artefact, canaries: Canaries, verdicts: Sequence[Verdict]) -> list[float]:
    """How far the logits of each canary are off, at least, to explain verdicts of them."""
    card = artefact.card
    return [
        difference(card.task, card.calibration, one.logits, _probs(artefact, verdict))
        for one, verdict in zip(canaries.texts, verdicts, strict=True)
    ]
