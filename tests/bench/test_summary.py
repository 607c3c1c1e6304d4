"""What a result file says of cells: means, spreads, rivals, and reasons for what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mood import problem_of

from pillion.backends.fake import FakeBackend
from pillion.data import LabelSpace
from pillion.metrics import Resampled, evaluate
from pillion_bench.beside import DEFAULT_PROBE, beside, best_probe, shares
from pillion_bench.problem import Part, Problem
from pillion_bench.run_folder import Cell
from pillion_bench.suite import Suite
from pillion_bench.summary import best_baseline, split_of, summarise, with_reads

SUITE = Suite(
    data={"mood": {"train": "rows.jsonl", "test": 0.3}},  # type: ignore[dict-item]
    methods={"gate": {"kind": "probe"}},  # type: ignore[dict-item]
)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A binary problem whose test rows may be read."""
    return problem_of(tmp_path_factory.mktemp("mood"))


def cell(problem: Problem, role: str, seed: int, noise: float) -> Cell:
    """Probabilities that are the truth and noise."""
    chance = np.random.default_rng(seed)
    probs, metrics, rows = {}, {}, {}
    for part in (problem.validation, problem.test):
        assert part is not None
        truth = part.targets.astype(np.float32)[:, None]
        said = 0.5 + (truth - 0.5) * 0.8 + noise * chance.normal(size=truth.shape)
        probs[part.name] = np.clip(said, 0, 1).astype(np.float32)
        metrics[part.name] = evaluate(probs[part.name], part.targets, "binary", (0.5,))
        rows[part.name] = len(part)
    facts = {
        "kind": "probe",
        "role": role,
        "settings": {},
        "seed": seed,
        "digest": "d",
        "metrics": metrics,
        "rows": rows,
        "thresholds": (0.5,),
        "parameters": 7,
        "chosen": {},
        "fit_seconds": 1.0,
    }
    return Cell(facts, probs)


def test_a_model_is_named_by_its_file_and_not_by_where_that_lies(
    problem: Problem, tmp_path: Path
) -> None:
    file = tmp_path / "some.gguf"
    file.touch()
    for name, shown in ((str(file), "some.gguf"), ("org/model", "org/model")):
        model = replace(FakeBackend().identity, name=name)
        content = summarise(SUITE, problem, model, {}, {})
        assert content["settings"]["model"]["name"] == shown


def unused(reason: str) -> Cell:
    facts = {"kind": "lora", "role": "mark", "settings": {}, "seed": 0, "not_measured": reason}
    return Cell(facts, {})


@pytest.fixture(scope="module")
def results(problem: Problem) -> dict[str, Any]:
    cells = {
        "gate": [cell(problem, "probe", seed, 0.1) for seed in (0, 1)],
        "weak": [cell(problem, "baseline", 0, 1.5)],
        "strong": [cell(problem, "baseline", 0, 0.4)],
        "lora": [unused("It needs peft.")],
    }
    times = {"gate": {"added_ms": 1.5, "bare_ms": 20.0}}
    return summarise(SUITE, problem, FakeBackend().identity, cells, times)


def entry(results: dict[str, Any], method: str, metric: str) -> dict[str, Any]:
    found = [e for e in results["results"] if (e["method"], e["metric"]) == (method, metric)]
    assert len(found) == 1
    return found[0]


def test_a_number_is_the_mean_over_seeds_with_their_spread(results: dict[str, Any]) -> None:
    found = entry(results, "gate", "test_f1")
    assert found["seeds"] == [0, 1] and len(found["per_seed"]) == 2
    assert found["value"] == pytest.approx(np.mean(found["per_seed"]))
    assert found["spread"] == pytest.approx(np.std(found["per_seed"], ddof=1))
    assert entry(results, "weak", "test_f1")["spread"] is None, "one seed has no spread"


def test_a_method_is_held_against_the_best_baseline_and_that_one_against_none(
    results: dict[str, Any],
) -> None:
    for name in ("gate", "weak"):
        found = entry(results, name, "test_auprc")
        assert found["baseline"] == "strong"
        assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    assert "baseline" not in entry(results, "strong", "test_auprc")
    assert "baseline" not in entry(results, "gate", "validation_auprc"), "of the test rows alone"


def test_what_was_not_measured_or_is_undefined_has_its_reason(
    results: dict[str, Any], problem: Problem
) -> None:
    lora = entry(results, "lora", "not_measured")
    assert lora["value"] is None and lora["reason"] == "It needs peft."
    assert results["settings"]["methods"]["lora"]["not_measured"] == "It needs peft."
    rare = entry(results, "gate", "test_tpr_at_fpr_01")
    assert problem.test is not None
    negatives = int((problem.test.targets == 0).sum())
    assert rare["value"] is None
    assert rare["reason"] == f"not enough negatives ({negatives} of 1,000)"


def test_prices_stand_beside_and_only_of_what_was_measured(results: dict[str, Any]) -> None:
    assert entry(results, "gate", "parameters")["value"] == 7
    assert entry(results, "gate", "added_ms") == {
        "metric": "added_ms",
        "method": "gate",
        "value": 1.5,
        "bare_ms": 20.0,
    }
    priced = {e["method"] for e in results["results"] if e["metric"] == "parameters"}
    assert priced == {"gate", "weak", "strong"}


def test_a_file_says_what_it_was_made_of(results: dict[str, Any], problem: Problem) -> None:
    assert results["name"] == "accuracy-mood" and results["split"] == "test"
    settings = results["settings"]
    assert settings["rows"] == {part.name: len(part) for part in problem.parts}
    assert settings["best_probe"]["method"] == "gate"
    assert settings["positives"] == shares(problem)
    assert results["data"] == list(problem.files) and results["data"][0]["sha256"]


def test_a_run_that_is_not_locked_is_of_validation_rows_and_its_name_says_so(
    problem: Problem,
) -> None:
    open_run = replace(problem, test=None)
    one = cell(problem, "probe", 0, 0.1)
    facts = {**one.facts, "metrics": {"validation": one.facts["metrics"]["validation"]}}
    some = Cell(facts, {"validation": one.probs["validation"]})
    found = summarise(SUITE, open_run, FakeBackend().identity, {"gate": [some]}, {})
    assert (split_of(open_run), split_of(problem)) == ("validation", "test")
    assert found["name"] == "accuracy-mood-validation"
    assert not any(e["metric"].startswith("test_") for e in found["results"])


def test_each_day_and_commit_that_read_test_rows_counts_once() -> None:
    now = {"split": "test", "date": "2026-02-02", "commit": "b"}
    first = {"date": "2026-02-02", "commit": "b"}
    assert with_reads(now, None)["reads"] == [first]
    assert with_reads(now, with_reads(now, None))["reads"] == [first]
    older = {"date": "2026-01-01", "commit": "a", "split": "test"}
    assert with_reads(now, older)["reads"] == [{"date": "2026-01-01", "commit": "a"}, first]
    validation = {**now, "split": "validation"}
    assert with_reads(validation, older) is validation


def test_the_best_baseline_is_no_probe_and_has_a_number_for_every_seed(problem: Problem) -> None:
    def of(role: str, *values: float | None) -> list[Cell]:
        return [Cell({"role": role, "metrics": {"test": {"f1": v}}}, {}) for v in values]

    measured = {
        "gate": of("probe", 0.99),
        "mark": of("mark", 0.98),
        "holes": of("baseline", 0.97, None),
        "good": of("baseline", 0.6, 0.8),
        "poor": of("baseline", 0.65, 0.65),
    }
    assert best_baseline(measured, "f1", "test") == "good"
    assert best_baseline({"gate": measured["gate"]}, "f1", "test") is None


# --- what stands beside


def rows_of(problem: Problem, targets: list[Any]) -> Part:
    """Validation rows with these targets."""
    return replace(
        problem.validation,
        texts=("x",) * len(targets),
        targets=np.array(targets),
        row_ids=np.arange(len(targets)),
    )


def test_recall_of_named_labels_and_the_share_that_is_given_a_label(problem: Problem) -> None:
    named = replace(problem, spec=problem.spec.model_copy(update={"recalls": ("poor", "fine")}))
    part = rows_of(problem, [1, 1, 0, 0])
    probs = np.array([[0.9], [0.1], [0.2], [0.8]], dtype=np.float32)
    found = beside(named, part, probs, (0.5,))
    names = {name: found[f"recall of {name}"] for name in ("poor", "fine")}
    assert names == {"poor": 0.5, "fine": 0.5} and found["share given"] == 0.5
    nobody = beside(named, rows_of(problem, [0] * 4), probs, (0.95,))
    positive = problem.space.names[1]
    assert nobody[f"recall of {positive}"] is None, "no row has the label"
    assert nobody["share given"] == 0.0, "the threshold gives none"


def test_labels_of_several_and_of_one_among_many_are_recalled_by_their_own_column(
    problem: Problem,
) -> None:
    spec = problem.spec.model_copy(update={"recalls": ("b",)})
    several = replace(problem, spec=spec, space=LabelSpace(("a", "b"), "multilabel"))
    part = rows_of(problem, [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    probs = np.array([[0.9, 0.2], [0.1, 0.9], [0.1, 0.1]], dtype=np.float32)
    found = beside(several, part, probs, (0.5, 0.5))
    assert found["recall of b"] == 0.5 and found["share given"] == pytest.approx(2 / 3)
    one = replace(problem, spec=spec, space=LabelSpace(("a", "b", "c"), "multiclass"))
    ids = rows_of(problem, [1, 1, 2])
    shown = np.array([[0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0, 1, 0]], dtype=np.float32)
    assert beside(one, ids, shown, None) == {"recall of b": 0.5}, "it always gives a label"


def test_only_a_binary_task_has_a_share_of_positive_rows(problem: Problem) -> None:
    assert shares(problem)["test"] == pytest.approx(
        np.mean(problem.test.targets),  # type: ignore[union-attr]
        abs=1e-4,
    )
    assert shares(replace(problem, space=LabelSpace(("a", "b", "c"), "multiclass"))) == {}


def test_few_rows_name_the_default_probe_and_many_the_best_of_them(problem: Problem) -> None:
    draws = {
        "mha": Resampled(0.9, np.array([0.9, 0.7, 0.9, 0.8])),
        DEFAULT_PROBE: Resampled(0.8, np.array([0.8, 0.8, 0.9, 0.7])),
    }
    few = best_probe(problem, draws)
    assert few is not None and few["method"] == DEFAULT_PROBE and few["by"].startswith("default: ")
    assert few["share_of_draws"] == {"mha": 0.75, DEFAULT_PROBE: 0.25}, "equals are the first's"
    many = replace(problem, validation=rows_of(problem, [0, 1] * 300))
    found = best_probe(many, draws)
    assert found is not None and found["method"] == "mha" and "600 validation rows" in found["by"]
    only = best_probe(problem, {"mha": draws["mha"]})
    assert only is not None and only["method"] == "mha", "the default was not measured"
    assert best_probe(problem, {}) is None
