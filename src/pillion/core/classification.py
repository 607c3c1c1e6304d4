"""Verdicts in the shape of vLLM's `/classify`, for clients that speak it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pillion.core.verdict import Verdict


def classification_json(
    request: str, probe: str, verdicts: Sequence[Verdict], num_tokens: int
) -> dict[str, Any]:
    """The body of an answer.

    Args:
        request: its id.
        probe: whose verdicts they are, told as the model.
        verdicts: one a text, in order.
        num_tokens: of all texts.
    """
    return {
        "id": f"classify-{request}",
        "object": "list",
        "created": int(time.time()),
        "model": probe,
        "data": [{"index": i, **_one(verdict)} for i, verdict in enumerate(verdicts)],
        "usage": {
            "prompt_tokens": num_tokens,
            "total_tokens": num_tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
    }


def _one(verdict: Verdict) -> dict[str, Any]:
    """The decided label, where there are several the likeliest; null where there is none."""
    label = max(verdict.labels, key=verdict.probs.__getitem__, default=None)
    probs = [round(prob, 6) for prob in verdict.probs.values()]
    return {"label": label, "probs": probs, "num_classes": len(probs)}
