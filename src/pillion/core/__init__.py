"""The words of pillion as frozen values: shapes, model identities, verdicts, token events.

Knows neither models, nor disk, nor network.
"""

from pillion.core.failed_row import FailedRow
from pillion.core.identity import ModelIdentity, OnTooLong, Template
from pillion.core.shape import Shape
from pillion.core.verdict import ABSTAIN, TokenEvent, Verdict, verdict_json

__all__ = [
    "ABSTAIN",
    "FailedRow",
    "ModelIdentity",
    "OnTooLong",
    "Shape",
    "Template",
    "TokenEvent",
    "Verdict",
    "verdict_json",
]
