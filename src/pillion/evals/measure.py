"""From verdicts and true labels to metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from pillion.core import Verdict
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
    columns = card.labels[1:] if card.task == "binary" else card.labels
    probs = np.array([[verdict.probs[label] for label in columns] for verdict in verdicts])
    return evaluate(probs, targets, card.task, card.thresholds)
