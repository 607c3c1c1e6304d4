"""Running verdicts on answers: the same as of the answer so far, and what is chosen by them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pillion.backends.fake import FakeBackend
from pillion.core import Turn
from pillion.data import Rows
from pillion.evals import (
    CalibrationSettings,
    Labelled,
    Operating,
    calibrate,
    evaluation,
    largest_probs,
    measure_running,
    probs_of,
    raw_artefact,
    score,
)
from pillion.fit import FitSettings, fit
from pillion.probe import Artefact
from pillion.report.page import render
from pillion.runtime import LanguageModel
from pillion.train import ProbeConfig, TrainSettings

DATA = {"path": "rows.jsonl", "sha256": "f" * 64, "num_rows": 300}


def conversations(count: int, seed: int = 0) -> Rows:
    """Answers of small letters; every other one has a capital somewhere, and is `unsafe`."""
    rng = np.random.default_rng(seed)
    texts: list[Any] = []
    for i in range(count):
        letters = rng.integers(97, 123, size=rng.integers(18, 40))
        if i % 2:
            letters[rng.integers(4, 16)] = 88
        answer = "".join(map(chr, letters))
        texts.append((Turn("user", f"XX {i}"), Turn("assistant", answer)))
    labels = tuple("unsafe" if i % 2 else "safe" for i in range(count))
    return Rows(tuple(texts), labels, "0" * 64, "answers.jsonl")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(FakeBackend())


@pytest.fixture(scope="module")
def probe(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    how = FitSettings(live=True, train=TrainSettings(epochs=3, batch_size=8))
    work: Path = tmp_path_factory.mktemp("work")
    config = ProbeConfig(learning_rate=0.02, weight_decay=0.0)
    fitted = fit(model, conversations(160), None, [config], work, how, say=lambda _: None)
    return fitted[0].artefact


def test_a_probe_of_answered_prompts_reads_the_response_and_learns_from_prefixes(
    probe: Artefact,
) -> None:
    assert probe.card.scope == "response"
    assert probe.card.training["prefixes"] == "uniform"


def test_other_probes_learn_from_whole_rows(model: LanguageModel, tmp_path: Path) -> None:
    rows = Rows(("good", "bad") * 12, ("yes", "no") * 12, "0" * 64, "rows.csv")
    how = FitSettings(live=True, train=TrainSettings(epochs=1))
    fitted = fit(model, rows, None, [ProbeConfig()], tmp_path, how, say=lambda _: None)
    assert fitted[0].artefact.card.training["prefixes"] == "none"


def test_a_running_verdict_is_the_verdict_on_the_answer_so_far(
    model: LanguageModel, probe: Artefact
) -> None:
    rows = conversations(4, seed=3)
    labelled = Labelled.of(probe.card, rows)
    scored = score(model, probe, labelled)
    assert scored.running is not None

    for text, running in zip(rows.texts, scored.running, strict=True):
        assert not isinstance(text, str)
        question, answer = text
        assert len(running) == len(answer.content)
        places = [1, 7, len(running)]
        parts = [(question, Turn("assistant", answer.content[:place])) for place in places]
        wanted = probs_of(probe.card, [v[probe.name] for v in model.score(parts, [probe])])
        np.testing.assert_allclose(running[np.array(places) - 1], wanted, atol=1e-5)
        assert np.ptp(running) > 1e-3
    np.testing.assert_allclose(
        probs_of(probe.card, scored.verdicts), [one[-1] for one in scored.running], atol=1e-6
    )


def test_what_running_verdicts_are_worth_is_json_and_stands_on_the_page(
    model: LanguageModel, probe: Artefact
) -> None:
    labelled = Labelled.of(probe.card, conversations(60, seed=4))
    scored = score(model, probe, labelled)
    assert scored.running is not None
    found = measure_running(probe.card, scored.running, labelled.targets)
    lengths = [len(one) for one in scored.running]

    assert json.loads(json.dumps(found)) == found
    assert [line["tokens"] for line in found["after"]] == [16, 32, None]
    assert [line["rows"] for line in found["after"]] == [
        *(sum(length >= count for length in lengths) for count in (16, 32)),
        60,
    ]
    assert found["after"][-1]["auroc"] > 0.8
    (stop,) = found["stops"]
    low, high = stop["false_stops_interval"]
    assert low <= stop["false_stops"] <= high
    content = evaluation(probe, labelled, scored, lengths, {})
    assert content["running"] == found
    assert "While the answer grows" in render([content], "A")


def test_a_false_positive_rate_of_answers_is_that_of_their_largest_score(
    model: LanguageModel, probe: Artefact
) -> None:
    labelled = Labelled.of(probe.card, conversations(300, seed=5))
    raw = raw_artefact(probe)
    scored = score(model, raw, labelled)
    assert scored.running is not None
    probs, largest = probs_of(raw.card, scored.verdicts), largest_probs(scored.running)
    wanted = CalibrationSettings("platt", Operating(target_fpr=0.05))
    by_end, _ = calibrate(probe, probs, labelled.targets, wanted, DATA)
    stops, found = calibrate(probe, probs, labelled.targets, wanted, DATA, largest)
    other = Labelled.of(probe.card, conversations(300, seed=6))

    def false_stops(one: Artefact) -> float:
        running = score(model, one, other).running
        assert running is not None
        return measure_running(one.card, running, other.targets)["stops"][0]["false_stops"]

    assert found["rates_of"] == "largest of all tokens"
    assert found["thresholds"][0]["fpr"] <= 0.05
    assert stops.card.calibration == by_end.card.calibration
    assert false_stops(stops) < 0.1
    assert false_stops(by_end) > false_stops(stops)


def test_without_a_false_positive_rate_the_whole_answers_decide(
    model: LanguageModel, probe: Artefact
) -> None:
    labelled = Labelled.of(probe.card, conversations(80, seed=7))
    scored = score(model, raw_artefact(probe), labelled)
    assert scored.running is not None
    probs, largest = probs_of(probe.card, scored.verdicts), largest_probs(scored.running)
    wanted = CalibrationSettings("none", Operating(best_f1=True))
    one, found = calibrate(probe, probs, labelled.targets, wanted, DATA, largest)
    other, _ = calibrate(probe, probs, labelled.targets, wanted, DATA)

    assert found["rates_of"] == "whole rows"
    assert one.card.thresholds == other.card.thresholds
