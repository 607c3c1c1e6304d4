"""The result file of a probe on labelled rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from made_probes import LABELS, made_artefact, made_probs, made_rows
from pillion.api import Probe
from pillion.backends.fake import FakeBackend
from pillion.data import Rows
from pillion.errors import ConfigError, DataError
from pillion.evals import Labelled, Scored, by_label, evaluation, measure, result_of, score
from pillion.probe import Artefact
from pillion.report.evaluation_section import evaluation_section
from pillion.report.page import render
from pillion.runtime import LanguageModel
from pillion.sharing.page import model_page
from pillion.train import TrainSettings

TASKS = tuple(LABELS)


def made(
    task: str, count: int = 90, num_examples: int = 0, **facts: Any
) -> tuple[dict[str, Any], Artefact, Labelled]:
    probe = made_artefact(task, **facts)
    rng = np.random.default_rng(1)
    names = LABELS[task]
    labels: list[Any] = [names[i % len(names)] for i in range(count)]
    if task == "multilabel":
        labels = [[n for n in names if rng.random() < 0.4] for _ in range(count)]
    rows = made_rows(probe, [f"text {i}" for i in range(count)], labels)
    verdicts = [probe.verdict(p) for p in made_probs(probe, rows).tolist()]
    tokens = [1 + 40 * (i % 3) for i in range(count)]
    return (
        evaluation(probe, rows, Scored(verdicts), tokens, {"parameters": 4}, num_examples),
        probe,
        rows,
    )


@pytest.mark.filterwarnings("ignore:Probe")
def test_numbers_of_another_model_say_so_and_are_not_shared() -> None:
    """They bore the name of the probe's own model, on the page of a shared probe, too."""
    own, other = (LanguageModel(FakeBackend(seed=seed)) for seed in (0, 1))
    texts, labels = [f"text {i}" for i in range(24)], ["bad", "good"] * 12
    probe = Probe(model=own, train=TrainSettings(epochs=1)).fit(texts, labels).artefact
    rows = made_rows(probe, texts, labels)
    for model, is_other in ((own, False), (other, True)):
        found = result_of(model, probe, rows, score(model, probe, rows, allow_mismatch=True))
        assert ("weights" in found["settings"].get("mismatch", "")) is is_other
        title = evaluation_section(found)["title"]
        assert title.endswith("another model than its own") is is_other
        if is_other:
            with pytest.raises(ConfigError, match="measured on another model"):
                model_page(probe, "hf://me/p", found)
        else:
            assert "Measured on 24 rows" in model_page(probe, "hf://me/p", found)


@pytest.mark.parametrize("task", TASKS)
def test_its_numbers_are_those_of_measure_and_it_is_plain_json(task: str) -> None:
    content, probe, rows = made(task)
    verdicts = [probe.verdict(p) for p in made_probs(probe, rows).tolist()]
    wanted = measure(probe.card, verdicts, rows.targets)
    assert {e["metric"]: e["value"] for e in content["results"]} == wanted
    for entry in content["results"]:
        if entry["value"] is not None:
            low, high = entry["interval"]
            assert low <= entry["value"] <= high or entry["metric"] == "ece"
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_it_says_by_what_the_probe_decided() -> None:
    """Not its exits: a shared page took numbers from before they were gone for the probe's own."""
    content, probe, _ = made("binary")
    card, told = probe.card.model_dump(mode="json"), content["settings"]["probe"]
    for name in ("thresholds", "calibration", "abstain", "conformal", "exit"):
        assert told[name] == card[name]


def test_metrics_of_rows_without_a_mistake_have_no_interval() -> None:
    """Draws of eight right rows are all right: accuracy was told to lie between 1 and 1."""
    probe = made_artefact("binary")
    rows = made_rows(probe, [f"text {i}" for i in range(8)], ["no", "yes"] * 4)
    scored = Scored([probe.verdict([p]) for p in (0.1, 0.9) * 4])
    content = evaluation(probe, rows, scored, [1] * 8, {})
    told = {entry["metric"]: (entry["value"], entry["interval"]) for entry in content["results"]}
    assert told["accuracy"] == told["f1"] == told["auprc"] == (1, None)


@pytest.mark.parametrize("task", TASKS)
def test_labels_and_lengths_are_counted_over_all_rows(task: str) -> None:
    content, _, rows = made(task)
    truth = rows.targets
    columns = np.eye(3)[truth] if task == "multiclass" else truth.reshape(len(truth), -1)
    wanted = columns.sum(0).astype(int).tolist()
    assert [line["rows"] for line in content["per_label"]] == wanted
    groups = [(line["from"], line["to"], line["rows"]) for line in content["by_length"]]
    assert groups == [(1, 1, 30), (17, 64, 30), (65, 256, 30)]


def test_without_examples_no_text_is_kept() -> None:
    content, _, _ = made("binary")
    assert content["examples"] == {}
    assert "text 1" not in json.dumps(content)


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_the_surest_mistakes_the_least_sure_and_the_surest_right(task: str) -> None:
    content, _, _ = made(task, count=300, num_examples=5)
    kinds = content["examples"]
    assert set(kinds) == {"wrong", "unsure", "right"}
    assert all(len(kinds[kind]) == 5 for kind in kinds)
    assert all(sorted(e["label"]) != sorted(e["decided"]) for e in kinds["wrong"])
    assert all(sorted(e["label"]) == sorted(e["decided"]) for e in kinds["right"])
    assert all(e["text"] == f"text {e['row'] - 1}" for e in kinds["unsure"])


def test_a_label_that_no_row_has_is_undefined_rather_than_zero() -> None:
    probe = made_artefact("multiclass", ("a", "b", "c"))
    rows = made_rows(probe, ["x", "y"], ["a", "b"])
    verdicts = [probe.verdict(p) for p in ([0.8, 0.1, 0.1], [0.7, 0.2, 0.1])]
    content = evaluation(probe, rows, Scored(verdicts), [1, 1], {})
    absent = content["per_label"][2]
    assert absent["rows"] == 0
    assert [absent[k] for k in ("precision", "recall", "f1", "auprc", "auroc")] == [None] * 5
    assert content["per_label"][1]["precision"] is None  # never decided for
    assert content["per_label"][1]["recall"] == 0


def test_examples_and_unknown_labels_are_named_by_the_rows_of_the_data() -> None:
    """Rows that had been left out before them were not counted."""
    probe = made_artefact("binary")
    whole = Rows.of(["v", "w", "x", "y"], ["no", "no", "yes", "yes"], "rows.csv")
    labelled = Labelled.of(probe.card, whole.some([1, 3]))
    told = Scored([probe.verdict([0.2]), probe.verdict([0.9])])
    kept = evaluation(probe, labelled, told, [1, 1], {}, num_examples=2)["examples"]["right"]
    assert {one["text"]: one["row"] for one in kept} == {"w": 2, "y": 4}
    odd = Rows.of(["v", "w"], ["no", "maybe"], "rows.csv").some([1])
    with pytest.raises(DataError, match="'maybe', first in row 2"):
        Labelled.of(probe.card, odd)


def test_prediction_sets_are_counted_against_the_labels() -> None:
    conformal = {"method": "lac", "coverage": 0.9, "limit": 0.3}
    content, _, _ = made("multiclass", conformal=conformal)
    assert 0.5 < content["sets"]["coverage"] <= 1
    assert sum(content["sets"]["sizes"].values()) == 90
    assert made("multiclass")[0]["sets"] is None


def test_a_label_that_nobody_judged_is_null_in_the_file_and_in_no_count() -> None:
    probe = made_artefact("multilabel", ("a", "b"))
    labels = [{"a": 1, "b": None}, {"a": 0, "b": 1}, {"b": 0}, {"a": 1, "b": 1}]
    rows = made_rows(probe, ["w", "x", "y", "z"], labels)
    verdicts = [probe.verdict([0.9, 0.1])] * 4
    content = evaluation(probe, rows, Scored(verdicts), [1] * 4, {}, num_examples=4)
    assert content["predictions"]["targets"] == [[1, None], [0, 1], [None, 0], [1, 1]]
    a, b = content["per_label"]
    assert (a["rows"], a["precision"]) == (2, pytest.approx(2 / 3)) and b["rows"] == 2
    assert {one["row"] for one in content["examples"]["right"]} == {1, 3}
    assert content["confusion"] == [[[0, 1], [0, 2]], [[1, 0], [2, 0]]]
    section = evaluation_section(json.loads(json.dumps(content, allow_nan=False)))
    assert "Rows a point: 3, 3" in section["charts"][0]["note"]


@pytest.mark.parametrize("task", TASKS)
def test_undecided_rows_are_counted_apart_from_decisions(task: str) -> None:
    """The page said that 10 % were undecided beside a confusion table of all rows."""
    bands = ((0.3, 0.7),) * (1 if task == "binary" else 3)
    content, _, rows = made(task, abstain=bands)
    undecided = np.array(content["predictions"]["undecided"])
    assert 0 < undecided.sum() < len(undecided)
    decided = content["decided"]
    assert decided["rows"] == (~undecided).sum()
    counts = np.array(content["confusion"])
    if task == "multilabel":
        assert (counts.sum(axis=(1, 2)) == decided["rows"]).all()
        assert decided["undecided_by_label"] is None
    else:
        whole = counts.sum(axis=1) + decided["undecided_by_label"]
        assert whole.tolist() == np.bincount(rows.targets).tolist()
    page = render([content], "A")
    assert f"Of the {decided['rows']} rows that the probe decides." in page
    assert "if none were left undecided" in page
    always = made(task)[0]
    assert always["decided"] is None and "if none were left" not in render([always], "A")


@pytest.mark.parametrize("task", TASKS)
def test_labels_come_with_intervals_that_hold_their_values(task: str) -> None:
    content, _, _ = made(task)
    for line in content["per_label"]:
        for rate in ("precision", "recall", "f1"):
            low, high = line[f"{rate}_interval"]
            assert low <= line[rate] <= high and high - low > 0.01


def test_a_label_that_is_never_found_has_an_interval_above_zero_and_no_f1_interval() -> None:
    probe = made_artefact("binary")
    probs, targets = np.full((30, 1), 0.1), np.array([1] * 6 + [0] * 24)
    (line,) = by_label(probe.card, probs, targets)
    assert line["precision"] is None and line["precision_interval"] is None
    low, high = line["recall_interval"]
    assert (line["recall"], low) == (0, 0) and 0.3 < high < 0.5
    assert line["f1"] == 0 and line["f1_interval"] is None


def test_a_time_that_noise_hides_is_not_printed() -> None:
    """The page said "0.926 x bare time", of turns between 0.8 and 1.3."""
    content, _, _ = made("binary")
    cost = {"parameters": 4, "time_with_the_probe_over_bare": 0.926}
    told = render([content | {"cost": cost | {"time_interval": [0.8, 1.3]}}], "A")
    assert "0.926" not in told and "0.800 to 1.300 in six turns" in told
    told = render([content | {"cost": cost | {"time_interval": [0.9, 0.95]}}], "A")
    assert "0.926" in told and "0.900 to 0.950" in told
