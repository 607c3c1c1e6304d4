"""What a method adds while a text is served: milliseconds and bytes beside the bare model.

Bare pass and pass with the method run in turns on the same texts, one at a time; what is computed
beside the pass is timed by itself. Does not know which method it is.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pillion.evals.cost import seconds
from pillion.extract.collector import pad
from pillion_bench.baselines.base import Serving
from pillion_bench.problem import Problem
from pillion_bench.states import States

WARM_TEXTS = 2


class Clock:
    """The texts that are served, and the bare model's time for them.

    Args:
        states: whose model serves.
        problem: whose validation texts are served.
        num_texts: how many; drawn at random, the same for every method.
    """

    def __init__(self, states: States, problem: Problem, num_texts: int) -> None:
        rows = np.random.default_rng(0).permutation(len(problem.validation))
        tokens = states.tokens(problem.validation)
        self.states = states
        self.texts = [
            (problem.validation.texts[row], tokens[row]) for row in rows[: num_texts + WARM_TEXTS]
        ]

    @property
    def warm(self) -> int:
        """Texts at the beginning that are served but not counted."""
        return min(WARM_TEXTS, len(self.texts) - 1)

    def bare(self, token_ids: Sequence[int]) -> Float[Tensor, "batch vocab"]:
        """The pass that serves a text, up to its first token's logits."""
        logits = self.states.backend.forward(*pad([token_ids]), logits=True)
        assert logits is not None
        return logits


def measure_times(clock: Clock, serving: Serving) -> dict[str, Any]:
    """Milliseconds and bytes that a method adds, as the median over texts with its quartiles."""
    bare: list[float] = []
    added: list[float] = []
    for text, token_ids in clock.texts:
        plain = seconds(partial(clock.bare, token_ids))
        bare.append(plain)
        extra = 0.0
        if serving.after is not None:
            extra += seconds(partial(_ridden, clock, serving, token_ids)) - plain
        if serving.beside is not None:
            extra += seconds(partial(serving.beside, text))
        added.append(extra)
    counted = [1e3 * x for x in added[clock.warm :]]
    low, middle, high = np.quantile(counted, [0.25, 0.5, 0.75])
    return {
        "added_ms": float(middle),
        "quartiles_ms": [float(low), float(high)],
        "bare_ms": 1e3 * statistics.median(bare[clock.warm :]),
        "texts": len(counted),
        "tokens": sum(len(ids) for _, ids in clock.texts[clock.warm :]),
        "weights_bytes": serving.weights_bytes,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def _ridden(clock: Clock, serving: Serving, token_ids: Sequence[int]) -> None:
    assert serving.after is not None
    with torch.inference_mode(), serving.riding() as riding:
        serving.after(riding, clock.bare(token_ids))
