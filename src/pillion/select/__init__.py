"""Which layers are worth reading, before any probe is trained.

Promises numbers of pooled states, and rules that are written down. Does not know training or HTTP.
"""

from pillion.select.economics import LayerSet, layer_sets
from pillion.select.identify import (
    MAX_ROWS,
    Identification,
    choose_layers,
    identify,
    identify_states,
    sample,
    smallest_good,
)
from pillion.select.rules import RULES
from pillion.select.study import LayerRow, Targets, study_layers

__all__ = [
    "MAX_ROWS",
    "RULES",
    "Identification",
    "LayerRow",
    "LayerSet",
    "Targets",
    "choose_layers",
    "identify",
    "identify_states",
    "layer_sets",
    "sample",
    "smallest_good",
    "study_layers",
]
