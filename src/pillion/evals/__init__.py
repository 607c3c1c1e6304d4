"""How good verdicts are: metrics of a probe on labelled rows. Knows no plots."""

from pillion.evals.measure import measure
from pillion.evals.profiles import layer_profiles

__all__ = ["layer_profiles", "measure"]
