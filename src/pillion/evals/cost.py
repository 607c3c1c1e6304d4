"""What a probe costs a pass: its size, and time against the bare model, measured in turns.

Knows the runtime, no labels.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pillion.core import as_tokens
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, pad_batch, watch

PAIRS = 6
"""Measured in turns. The median of the ratio lies between the lowest and highest of six in 97 %."""
SAMPLE_TEXTS, SAMPLE_TOKENS = 8, 512
"""Texts of the timed batch, and the longest of them: small, for it is run a dozen times."""


def probe_cost(
    model: LanguageModel, artefact: Artefact, rows: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Size of the probe, and medians of the time of one batch with and without it.

    `time_interval` holds the lowest and highest ratio of both times.

    Args:
        model: that it rides on.
        artefact: of the probe; it belongs to the model.
        rows: tokens of texts; the first few that are not too long are the batch.
    """
    # Whole ones: a cut could leave nothing of the turns that the probe reads.
    fit = [row for row in rows if len(row) <= SAMPLE_TOKENS][:SAMPLE_TEXTS]
    batch = [as_tokens(row) for row in fit or [min(rows, key=len)]]
    ids, mask = pad_batch(batch)

    def bare() -> None:
        model.backend.forward(ids, mask)

    def ridden() -> None:
        with watch(model.backend, [artefact], allow_mismatch=True) as reading:
            reading.expect(batch)
            model.backend.forward(ids, mask)
            reading.probabilities()

    pairs = [(seconds(bare), seconds(ridden)) for _ in range(PAIRS + 1)][1:]
    ratios = [two / one for one, two in pairs]
    return {
        "parameters": artefact.network.num_parameters,
        "layers_read": len(artefact.card.layers),
        "values_a_token_and_layer": artefact.network.tap().num_values,
        "tokens_of_the_timed_batch": int(mask.sum()),
        "seconds_of_the_bare_pass": statistics.median(one for one, _ in pairs),
        "time_with_the_probe_over_bare": statistics.median(ratios),
        "time_interval": [min(ratios), max(ratios)],
    }


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begin
