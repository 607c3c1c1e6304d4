"""How good verdicts are: metrics of a probe on labelled rows. Knows no plots."""

from pillion.evals.measure import measure

__all__ = ["measure"]
