"""What is computed on an accelerator is what the processor computes: extraction, training, methods.

The laws of reading and serving run there too: `make test-gpu` sets where tiny models live.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mood import accuracy, place_of, problem_of

from pillion.backends.transformers import TransformersBackend
from pillion.extract import CachedSource, LiveSource, extract
from pillion.train import Examples, ProbeConfig, TrainSettings, evaluate_source, train
from pillion_bench.baselines import make_method
from pillion_bench.times import Clock, measure_times
from tiny_models import SMALL, distance, random_ids, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.gpu

LAYERS = (0, 2, 4)
ROWS = [random_ids(3 + seed % 19, seed) for seed in range(48)]
TARGETS = np.array([int(sum(row) % 2) for row in ROWS])
QUICK: dict[str, dict[str, Any]] = {
    "probe": {"learning_rate": 0.03, "train": {"epochs": 3}},
    "best-layer": {"strengths": [0.1, 1.0]},
    "all-layers": {"strengths": [0.1]},
    "muli": {"penalties": [0.01]},
    "los-net": {"top_k": 20, "dim": 16, "heads": 2, "epochs": 3, "batch_size": 8},
    "prompting": {},
    "lora": {"epochs": 3, "rank": 4, "learning_rate": 5e-3},
}


def backend_on(device: str) -> TransformersBackend:
    return TransformersBackend(tiny_model().to(device), tiny_tokenizer(), "tiny")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_extracted_states_are_the_processors(tmp_path: Path) -> None:
    kept: list[torch.Tensor] = []
    for device in ("cpu", "cuda"):
        reader = extract(backend_on(device), ROWS, LAYERS, tmp_path / device, "key")
        with reader:
            kept.append(CachedSource(reader).read_batch(range(len(ROWS)))[0].clone())
    assert kept[1].device.type == "cpu"
    assert distance(kept[1], kept[0]) < 1e-5
    # The negative control: other rows' states are clearly others.
    assert distance(kept[1].roll(1, 1), kept[0]) > 0.1


@pytest.mark.parametrize("probe", ["gate", "mha", "gate-mlp", "multimax", "rolling"])
def test_a_probe_trained_there_says_what_one_trained_here_says(probe: str) -> None:
    said: list[torch.Tensor] = []
    # What is dropped in training is drawn where it is trained, so nothing is dropped here.
    none = {"dropout": 0.0} if probe == "gate-mlp" else {}
    config = ProbeConfig(probe=probe, settings={**SMALL.get(probe, {}), **none}, learning_rate=0.01)
    for device in ("cpu", "cuda"):
        examples = Examples(LiveSource(backend_on(device), ROWS, LAYERS), TARGETS)
        settings = TrainSettings(epochs=2, batch_size=8)
        (trained,) = train(examples, examples, "binary", 2, [config], settings, device=device)
        said.append(evaluate_source(trained.network, examples.source, "binary"))
        assert next(trained.network.parameters()).device.type == device
    assert distance(said[1], said[0]) < 1e-3
    assert said[0].std() > 1e-3  # rows differ, so agreement means something


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("labels", [("fine", "poor"), ("fine", "poor", "so")], ids=len)
def test_every_method_works_with_a_model_on_the_accelerator(
    tmp_path: Path, opened: ExitStack, kind: str, labels: tuple[str, ...]
) -> None:
    problem = problem_of(tmp_path, labels)
    place = place_of(tmp_path, opened, problem, backend_on("cuda"))
    method = make_method(kind, QUICK[kind], kind)
    if (reason := method.why_not(problem, place.states.backend)) is not None:
        pytest.skip(reason)
    (outcome,) = method.fit(place, [0])
    tested = outcome.ask(problem.test)
    assert tested.shape == (len(problem.test), problem.num_outputs)
    assert np.isfinite(tested).all()
    if kind in {"probe", "best-layer", "all-layers", "lora"}:
        assert accuracy(outcome, problem) > 0.85
    measured = measure_times(Clock(place.states, problem, 3), method.serving(place))
    assert measured["texts"] == 3
