"""From verdicts and true labels to metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from pillion.core import Verdict
from pillion.evals.scoring import probs_of
from pillion.metrics import evaluate
from pillion.probe import Card


def measure(
    card: Card, verdicts: Sequence[Verdict], targets: Shaped[np.ndarray, "row ..."]
) -> dict[str, float | None]:
    """Metrics of a probe's verdicts at the thresholds on its card; None where undefined.

    Args:
        card: of the probe.
        verdicts: one a row.
        targets: label ids, or 0/1 a label for a multi-label probe.
    """
    return evaluate(probs_of(card, verdicts), targets, card.task, card.thresholds)
