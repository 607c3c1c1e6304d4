"""Voting probes beyond the common laws: pruning of layers, and settings that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.core import Shape
from pillion.data import Rows
from pillion.errors import ConfigError
from pillion.fit import FitSettings, fit
from pillion.probe import build, make_settings
from pillion.probe.vote import Vote
from pillion.runtime import LanguageModel
from pillion.train import ProbeConfig, TrainSettings
from pillion.train.learner import Learner, Part

LAYERS, DIM = 5, 12
TELLING = (1, 3)
"""Layers whose states say which label it is; the others are noise."""


def trained(**settings: Any) -> Vote:
    """A probe after 120 steps on rows of which two layers tell the label."""
    noise = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (120,), generator=noise)
    hidden = torch.randn(LAYERS, 120, 4, DIM, generator=noise)
    for layer in TELLING:
        hidden[layer] += 3 * torch.eye(3, DIM)[targets][:, None]
    part = Part(hidden, torch.ones(120, 4, dtype=torch.bool), None, targets, 1 / 120)
    options = {"num_heads": 2, "over_layers": "concat", **settings}
    config = ProbeConfig(probe="concat", settings=options, learning_rate=0.02, weight_decay=0.0)
    learner = Learner.start(config, Shape(LAYERS, DIM, 3), torch.device("cpu"))
    for step in range(120):
        learner.accumulate(part, "multiclass", torch.ones(3), step)
        learner.step(1.0)
    assert isinstance(learner.network, Vote)
    return learner.network.eval()


@pytest.mark.parametrize("prune", ["group", "l1"])
@pytest.mark.parametrize("tokens", ["mean", "attention"])
def test_a_penalty_takes_out_layers_that_tell_nothing(prune: str, tokens: str) -> None:
    _, kept = trained(prune=prune, tokens=tokens, penalty=0.03).pruned()

    assert kept == TELLING


def test_without_a_penalty_all_layers_stay() -> None:
    network = trained()
    same, kept = network.pruned()

    assert kept == tuple(range(LAYERS))
    assert same is network


@pytest.mark.parametrize("tokens", ["mean", "attention", "rolling"])
def test_what_is_left_says_the_same_without_the_other_layers(tokens: str) -> None:
    network = trained(prune="group", tokens=tokens, penalty=0.03)
    small, kept = network.pruned()
    hidden, mask = torch.randn(LAYERS, 3, 6, DIM), torch.ones(3, 6, dtype=torch.bool)

    assert small.shape.num_layers == len(kept) < LAYERS
    torch.testing.assert_close(small(hidden[list(kept)], mask), network(hidden, mask))
    others = hidden.clone()
    others[list(kept)] = 0.0
    assert (network(others, mask) - network(hidden, mask)).abs().max() > 0.1


@pytest.mark.parametrize("prune", ["group", "l1"])
def test_however_strong_the_penalty_one_layer_stays(prune: str) -> None:
    small, kept = trained(prune=prune, penalty=100.0).pruned()

    assert len(kept) == 1
    assert small.weight.any()


def test_a_pruned_probe_is_saved_with_the_layers_that_it_reads(tmp_path: Path) -> None:
    texts = tuple(f"{word} {i}" for i in range(40) for word in ("yes", "no"))
    rows = Rows(texts, ("a", "b") * 40, "", "rows.csv")
    strong = {"prune": "group", "penalty": 0.2}
    config = ProbeConfig(probe="concat", settings=strong, learning_rate=0.05)
    model, raw = LanguageModel(FakeBackend()), TrainSettings(epochs=6)
    how = FitSettings(template="raw", live=True, train=raw)
    (fitted,) = fit(model, rows, None, [config], tmp_path, how, say=lambda _: None)
    card, full = fitted.artefact.card, fitted.trained.network
    kept = full.weight.detach().flatten(1).any(1).nonzero()[:, 0]

    assert card.layers == tuple(kept.tolist())
    assert 0 < len(card.layers) < full.shape.num_layers
    assert fitted.artefact.network.shape.num_layers == len(card.layers)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("multimax", {"slope": True}, "slope is for tokens='attention'"),
        ("attention", {"prune": "group"}, "prune='group' is for over_layers='concat'"),
        ("rolling", {"window": 1}, "greater than or equal to 2"),
        ("attention", {"over_layers": "mean"}, "'static', 'gate', 'max' or 'concat'"),
        ("glot", {"width": 6}, "num_heads=4 does not divide width=6"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_settings(name, **options)


def test_a_slope_prefers_late_tokens_the_longer_the_text_the_more() -> None:
    network = build(
        "attention", Shape(1, 2, 1), make_settings("attention", num_heads=1, normalise=False)
    )
    assert isinstance(network, Vote)
    with torch.no_grad():
        network.slope.fill_(100.0)
        network.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    hidden = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])[None, None]
    weights = torch.tensor([0.0, 1.0, 2.0]).softmax(0)
    wanted = weights[0] * 1 + weights[2] * 3

    torch.testing.assert_close(network(hidden, torch.ones(1, 3, dtype=torch.bool))[0, 0], wanted)
