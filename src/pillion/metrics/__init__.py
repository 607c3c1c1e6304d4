"""How good and how well calibrated probabilities are, with bootstrap intervals.

Promises pure functions of arrays: same arrays and seed, same numbers; what is undefined is None.
Does not know files, models or label names.
"""

from pillion.metrics.bootstrap import Interval, interval, paired_interval
from pillion.metrics.classification import best_f1_threshold, confusion, decide, evaluate
from pillion.metrics.paired import PAIRED, paired_difference

__all__ = [
    "PAIRED",
    "Interval",
    "best_f1_threshold",
    "confusion",
    "decide",
    "evaluate",
    "interval",
    "paired_difference",
    "paired_interval",
]
