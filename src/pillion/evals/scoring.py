"""What a probe says of labelled rows, as arrays: the input of every measure.

Knows the runtime, no metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped

from pillion.core import OnTooLong, Verdict
from pillion.data import Contexts, LabelSpace, Rows
from pillion.errors import DataError
from pillion.probe import Artefact, Card
from pillion.runtime import (
    LanguageModel,
    encode_rows,
    pad_batch,
    place_rows,
    score_batches,
    taken_contexts,
    watch,
)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows with the ids of their labels.

    Attributes:
        rows: texts and labels.
        targets: label ids, or 0/1 a label for a multi-label probe.
        contexts: that the rows stand behind; None where they stand as they are.
    """

    rows: Rows
    targets: Shaped[np.ndarray, "row ..."]
    contexts: Contexts | None = None

    @classmethod
    def of(cls, card: Card, rows: Rows) -> Labelled:
        """The rows by the labels of a probe.

        Raises:
            DataError: no labels, or one that the probe does not know.
        """
        if rows.labels is None:
            raise DataError(f"{rows.path} has no labels; give a label for every text.")
        try:
            space = LabelSpace(card.labels, card.task)
            return cls(rows, space.encode(rows.labels, rows.numbers))
        except DataError as error:
            raise DataError(f"{rows.path}: {error}") from error

    @property
    def facts(self) -> dict[str, Any]:
        """Where the rows came from, and what they stand behind, as a card keeps it."""
        path = self.rows.path.replace("\\", "/").rsplit("/", 1)[-1]
        own = {"path": path, "sha256": self.rows.sha256, "num_rows": len(self.rows)}
        return own if self.contexts is None else own | {"contexts": self.contexts.facts}


def in_contexts(
    model: LanguageModel,
    card: Card,
    labelled: Labelled,
    contexts: Contexts,
    placing: Literal["some", "every"],
    seed: int,
    say: Callable[[str], object],
) -> Labelled:
    """The rows behind contexts that a probe of this model may meet.

    Args:
        model: whose chat template takes the contexts.
        card: of the probe.
        labelled: rows as they are.
        contexts: to put before them.
        placing: which rows come behind one; each stands there once, so that intervals hold.
        seed: of the draw.
        say: told which contexts the model does not take.

    Raises:
        ConfigError: the model takes none of them, or the probe would read them as the row's words.
    """
    taken, note = taken_contexts(model.backend, contexts, card.template, card.scope)
    if note is not None:
        say(note)
    rows = place_rows(model.backend, labelled.rows, taken, seed, placing)
    return replace(Labelled.of(card, rows), contexts=contexts)


def score_rows(
    model: LanguageModel,
    artefact: Artefact,
    labelled: Labelled,
    on_too_long: OnTooLong = "error",
    progress: Callable[[int, int], None] | None = None,
    allow_mismatch: bool = False,
) -> list[Verdict]:
    """The verdict of every row; see `LanguageModel.score`."""
    found = model.score(
        labelled.rows.texts,
        [artefact],
        on_too_long=on_too_long,
        progress=progress,
        allow_mismatch=allow_mismatch,
    )
    return [row[artefact.name] for row in found]


def depth_logits(
    model: LanguageModel,
    artefact: Artefact,
    labelled: Labelled,
    on_too_long: OnTooLong = "error",
    progress: Callable[[int, int], None] | None = None,
    allow_mismatch: bool = False,
) -> Float[np.ndarray, "row depth output"]:
    """Logits of every row at each of a probe's depths and, last, of all its layers.

    Arguments are those of `score_rows`.
    """
    card = artefact.card
    rows = encode_rows(
        model.backend,
        labelled.rows.texts,
        card.template,
        on_too_long,
        scopes=[card.scope],
        numbers=labelled.rows.numbers,
    )
    depths = (*card.depths, card.layers[-1])
    found = np.empty((len(rows), len(depths), card.shape.num_outputs))
    total, done = sum(map(len, rows)), 0
    with watch(model.backend, [artefact], allow_mismatch) as reading:
        for batch in score_batches([len(row) for row in rows]):
            reading.expect([rows[i] for i in batch])
            model.backend.forward(*pad_batch([rows[i] for i in batch]))
            found[batch] = reading.logits_at(depths)[artefact.name].double().cpu().numpy()
            done += sum(len(rows[i]) for i in batch)
            if progress is not None:
                progress(done, total)
    return found


def own_rows(card: Card, rows: Rows) -> str | None:
    """A sentence where these are the rows that the probe was trained on; None for others."""
    if rows.sha256 == card.data.validation_sha256 and card.training.get("refit"):
        return (
            f"{rows.path} is the file of its validation rows, which the probe learnt from, too, in "
            "a second fit: it is too sure and too good on them; bring other rows."
        )
    if rows.sha256 not in card.learnt_from:
        return None
    return (
        f"{rows.path} is the file that the probe was trained on: it is too sure and too good on "
        "its own training rows; bring other rows."
    )


def chosen_rows(card: Card, rows: Rows) -> str | None:
    """A sentence where the probe did not learn from these rows, but was chosen by them; else None.

    Epoch and thresholds are chosen on validation rows, calibration and decisions on those of
    `calibrate`.
    """
    if rows.sha256 in card.chosen_on:
        return (
            f"{rows.path} is the file that the probe's thresholds or calibration were chosen on: "
            "what is measured at them is better on it than on other rows; bring others."
        )
    if rows.sha256 == card.data.validation_sha256:
        return (
            f"{rows.path} is the file of its validation rows, which chose the epoch and the "
            "thresholds: they flatter; bring other rows."
        )
    return None


def probs_of(card: Card, verdicts: Sequence[Verdict]) -> Float[np.ndarray, "row output"]:
    """Probabilities as the network gives them: one column for a binary probe."""
    outputs = card.labels[1:] if card.task == "binary" else card.labels
    return np.array([[verdict.probs[label] for label in outputs] for verdict in verdicts])
