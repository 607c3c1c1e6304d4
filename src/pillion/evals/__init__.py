"""How good verdicts are: metrics of a probe on labelled rows, and texts made to try it.

Knows no plots.
"""

from pillion.evals.measure import measure
from pillion.evals.needle import NeedleSettings, needle_rows

__all__ = ["NeedleSettings", "measure", "needle_rows"]
