"""A probe on labelled rows, with a bar: what `evaluate`, `calibrate` and `report` do alike."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pillion.cli.options import EngineOptions
from pillion.cli.progress import progress_bar

if TYPE_CHECKING:
    from pillion.evals import Labelled, Scored
    from pillion.probe import Artefact
    from pillion.runtime import LanguageModel


def scored(
    model: LanguageModel, artefact: Artefact, labelled: Labelled, engine: EngineOptions, what: str
) -> Scored:
    """The verdict of every row; see `pillion.evals.score`.

    Args:
        model: that runs.
        artefact: the probe.
        labelled: its rows.
        engine: what becomes of texts that are too long, and of a probe of another model.
        what: is done, for the bar.
    """
    from pillion.evals import score

    with progress_bar() as bar:
        return score(
            model,
            artefact,
            labelled,
            on_too_long=engine.on_too_long,
            progress=partial(bar, what),
            allow_mismatch=engine.allow_mismatch,
        )
