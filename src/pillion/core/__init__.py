"""The words of pillion as frozen values: shapes, model identities, verdicts, token events.

Knows neither models, nor disk, nor network.
"""

from pillion.core.identity import ModelIdentity, OnTooLong, Template
from pillion.core.shape import Shape
from pillion.core.verdict import TokenEvent, Verdict

__all__ = ["ModelIdentity", "OnTooLong", "Shape", "Template", "TokenEvent", "Verdict"]
