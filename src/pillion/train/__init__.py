"""From hidden states to probes: many configurations in one pass over the data.

Promises that seeds decide the weights and that an interrupted run can go on. Does not know engines.
"""

from pillion.train.auto import Chosen, choose_probe
from pillion.train.depths import check_depths, counts_of
from pillion.train.evaluate import (
    CRITERION,
    choose_thresholds,
    evaluate_networks,
    evaluate_source,
)
from pillion.train.examples import Examples
from pillion.train.loop import Trained, train
from pillion.train.settings import AUTO, ProbeConfig, TrainSettings

__all__ = [
    "AUTO",
    "CRITERION",
    "Chosen",
    "Examples",
    "ProbeConfig",
    "TrainSettings",
    "Trained",
    "check_depths",
    "choose_probe",
    "choose_thresholds",
    "counts_of",
    "evaluate_networks",
    "evaluate_source",
    "train",
]
