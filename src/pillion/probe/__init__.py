"""Hidden states in, probabilities out: aggregators, heads, folds, and how a probe is kept on disk.

Knows neither engines nor HTTP. `AGGREGATORS` is the table of names that `--kind` accepts.
"""

from pillion.probe.artefact import Artefact
from pillion.probe.card import Card
from pillion.probe.network import Network, NetworkSettings
from pillion.probe.registry import AGGREGATORS, Aggregator, aggregator, build, make_settings

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "Artefact",
    "Card",
    "Network",
    "NetworkSettings",
    "aggregator",
    "build",
    "make_settings",
]
