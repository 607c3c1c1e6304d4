"""A judge that is a probe, of a bigger model as a rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pillion.core import OnTooLong, Text
from pillion.labelling.base import Judge, JudgeAnswer, chosen, digest, in_full
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, sift_rows

AT_ONCE = 64
"""Rows between two answers."""


class ProbeJudge(Judge):
    """Reads texts as its probe does.

    Args:
        model: that the probe was trained on.
        artefact: the probe.
        labels: some of its own; none for all of them.
        on_too_long: what happens to a text beyond the context window.

    Raises:
        ConfigError: a label that the probe does not have.
        MismatchError: the probe belongs to another model.
    """

    def __init__(
        self,
        model: LanguageModel,
        artefact: Artefact,
        labels: Sequence[str] = (),
        on_too_long: OnTooLong = "error",
    ) -> None:
        artefact.check(model.backend.identity)
        self.labels = chosen(labels, artefact.card.labels)
        self.model, self.artefact = model, artefact
        self.on_too_long: OnTooLong = on_too_long
        facts = [artefact.card.model_dump_json(), asdict(model.backend.identity)]
        self.key = digest([*facts, on_too_long, *self.labels])

    def ask(self, texts: Sequence[Text]) -> Iterator[JudgeAnswer]:
        """One answer a text; one that does not fit the model fails."""
        for start in range(0, len(texts), AT_ONCE):
            yield from self._some(start, texts[start : start + AT_ONCE])

    def _some(self, start: int, texts: Sequence[Text]) -> Iterator[JudgeAnswer]:
        card = self.artefact.card
        rows, failed = sift_rows(
            self.model.backend, texts, card.template, self.on_too_long, [card.scope]
        )
        for one in failed:
            yield JudgeAnswer(start + one.row - 1, None, one.reason)
        kept = [place for place, row in enumerate(rows) if len(row)]
        verdicts = self.model.score_rows([rows[place] for place in kept], [self.artefact])
        for place, verdict in zip(kept, verdicts, strict=True):
            probs = verdict[self.artefact.name].probs
            yield JudgeAnswer(start + place, in_full({one: probs[one] for one in self.labels}))
