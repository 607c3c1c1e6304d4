"""What a study looks at, and how large it is. Knows no method."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pillion.core import OnTooLong, Scope, Template
from pillion.data import Rows
from pillion.train import ProbeConfig, TrainSettings

BASELINES = ("muli", "tfidf", "length", "embeddings")
"""Kinds of `pillion_bench.baselines` that need texts or the last token's state alone."""


@dataclass(frozen=True)
class Other:
    """A data set that nothing is trained on.

    Attributes:
        name: of the set.
        rows: its texts and labels.
        groups: a name for each text, by which numbers are told apart; empty for none.
    """

    name: str
    rows: Rows
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class RealSettings:
    """What is studied, and how large.

    Attributes:
        config: of the probe.
        train: of its training.
        template: how a text is wrapped.
        scope: whose words are read, by probes as states and by methods of texts as text; other
            scopes than `all` want the template `chat`.
        layers: those to read; None for all.
        on_too_long: what happens to a text beyond the context window.
        positive: which of two labels is the positive one.
        baselines: of `BASELINES`, asked about the same texts.
        sample: rows of every perturbation; 0 for none.
        needles: texts that are hidden in long ones; 0 for none.
        words: lengths of the long texts.
        curve_seeds: draws of the learning curves; 0 for none.
        validation_share: of the training rows, to choose epochs, layers and thresholds.
        seed: of the split, the draws and the weights.
        cache: folder that keeps hidden states of train and test; None for the work folder.
    """

    config: ProbeConfig = field(default_factory=ProbeConfig)
    train: TrainSettings = field(default_factory=TrainSettings)
    template: Template = "chat"
    scope: Scope = "last-user"
    layers: tuple[int, ...] | None = None
    on_too_long: OnTooLong = "error"
    positive: str | None = None
    baselines: tuple[str, ...] = ("muli", "tfidf", "length")
    sample: int = 200
    needles: int = 30
    words: tuple[int, ...] = (100, 300, 900)
    curve_seeds: int = 2
    validation_share: float = 0.1
    seed: int = 0
    cache: Path | None = None
