"""pillion: labels from the hidden states of the LLM that is already running.

The names below are imported when they are first used: `import pillion` itself is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pillion.api import Probe
    from pillion.core import TokenEvent, Verdict
    from pillion.runtime import Explanation, Generation, LanguageModel, Sampling, attach, explain
    from pillion.sklearn import ProbeClassifier

_HOME = {
    "Explanation": "pillion.runtime",
    "Generation": "pillion.runtime",
    "LanguageModel": "pillion.runtime",
    "Probe": "pillion.api",
    "ProbeClassifier": "pillion.sklearn",
    "Sampling": "pillion.runtime",
    "TokenEvent": "pillion.core",
    "Verdict": "pillion.core",
    "attach": "pillion.runtime",
    "explain": "pillion.runtime",
}

__all__ = [
    "Explanation",
    "Generation",
    "LanguageModel",
    "Probe",
    "ProbeClassifier",
    "Sampling",
    "TokenEvent",
    "Verdict",
    "attach",
    "explain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pillion' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
