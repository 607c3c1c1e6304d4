"""The methods that a suite can name: pillion's probes, baselines, controls and an upper mark.

Each lies in one small file; what it needs beyond the core is imported when it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pillion.errors import unknown_name
from pillion_bench.baselines.auto import AutoMethod
from pillion_bench.baselines.base import (
    Method,
    OfNetwork,
    Outcome,
    Role,
    Serving,
    Workplace,
    ask_together,
)
from pillion_bench.baselines.classifier import Classifier
from pillion_bench.baselines.closed_form import LdaMethod, MeansMethod, RidgeMethod
from pillion_bench.baselines.lora import Lora
from pillion_bench.baselines.los_net import LosNet
from pillion_bench.baselines.muli import Muli
from pillion_bench.baselines.pooled import AllLayers, BestLayer
from pillion_bench.baselines.probe import ProbeMethod
from pillion_bench.baselines.prompting import Prompting
from pillion_bench.baselines.setfit import SetFit
from pillion_bench.baselines.shuffled import Shuffled
from pillion_bench.baselines.texts import Embeddings, Length, Tfidf
from pillion_bench.suite import checked

METHODS: dict[str, type[Method]] = {
    "probe": ProbeMethod,
    "auto": AutoMethod,
    "best-layer": BestLayer,
    "all-layers": AllLayers,
    "means": MeansMethod,
    "lda": LdaMethod,
    "ridge": RidgeMethod,
    "muli": Muli,
    "los-net": LosNet,
    "prompting": Prompting,
    "tfidf": Tfidf,
    "embeddings": Embeddings,
    "classifier": Classifier,
    "setfit": SetFit,
    "lora": Lora,
    "length": Length,
    "shuffled": Shuffled,
}


def make_method(kind: str, settings: Mapping[str, Any], where: str) -> Method:
    """A method of that kind.

    Args:
        kind: a name of `METHODS`.
        settings: of the kind.
        where: what an error names.

    Raises:
        ConfigError: an unknown kind or setting, or a value that does not fit.
    """
    if kind not in METHODS:
        raise unknown_name("kind of method", kind, METHODS)
    method = METHODS[kind]
    return method(checked(method.Settings, settings, where))


__all__ = [
    "METHODS",
    "Method",
    "OfNetwork",
    "Outcome",
    "Role",
    "Serving",
    "Workplace",
    "ask_together",
    "make_method",
]
