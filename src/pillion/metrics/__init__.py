"""How good and how well calibrated probabilities are, and how far apart classes of states lie.

Promises pure functions of arrays: same arrays and seed, same numbers; what is undefined is None.
Does not know files, models or label names.
"""

from pillion.metrics.bootstrap import Interval, interval, paired_interval
from pillion.metrics.classification import best_f1_threshold, confusion, decide, evaluate
from pillion.metrics.fisher import fisher_ratio
from pillion.metrics.silhouette import mean_silhouette, mean_silhouettes

__all__ = [
    "Interval",
    "best_f1_threshold",
    "confusion",
    "decide",
    "evaluate",
    "fisher_ratio",
    "interval",
    "mean_silhouette",
    "mean_silhouettes",
    "paired_interval",
]
