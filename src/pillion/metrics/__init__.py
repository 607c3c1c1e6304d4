"""How good and how well calibrated probabilities are, and how far apart classes of states lie.

Promises pure functions of arrays: same arrays and seed, same numbers; what is undefined is None.
Does not know files, models or label names.
"""

from pillion.metrics.bootstrap import Interval, interval, intervals, paired_interval
from pillion.metrics.classification import confusion, decide, evaluate, leading_metric
from pillion.metrics.fisher import fisher_ratio
from pillion.metrics.log_loss import log_loss
from pillion.metrics.paired import PAIRED, Resampled, paired_difference, resampled
from pillion.metrics.silhouette import mean_silhouette
from pillion.metrics.thresholds import f1_threshold

__all__ = [
    "PAIRED",
    "Interval",
    "Resampled",
    "confusion",
    "decide",
    "evaluate",
    "f1_threshold",
    "fisher_ratio",
    "interval",
    "intervals",
    "leading_metric",
    "log_loss",
    "mean_silhouette",
    "paired_difference",
    "paired_interval",
    "resampled",
]
