"""The HTML report: what is on the page, and that nothing in the data can break it."""

from __future__ import annotations

import json
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_probes import DATA, made_artefact, made_probs, made_rows
from pillion.data import Rows
from pillion.errors import DataError
from pillion.evals import CalibrationSettings, Operating, Scored, calibrate, evaluation
from pillion.report.page import read_content, render, write_report

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
NASTY = ("1", "1.0", 'says "no", twice', "<b>bold</b>", "$x_1$ & co", "危険 🔥", "a" * 300)


def made(
    task: str, labels: tuple[str, ...], texts: list[str], row_labels: list[Any], **facts: Any
) -> dict[str, Any]:
    probe = made_artefact(task, labels, **facts)
    rows = made_rows(probe, texts, row_labels)
    verdicts = [probe.verdict(p) for p in made_probs(probe, rows).tolist()]
    tokens = [len(text.split()) for text in texts]
    return evaluation(probe, rows, Scored(verdicts), tokens, {"parameters": 4}, num_examples=3)


@cache
def many(labels: tuple[str, ...], each: int = 8) -> dict[str, Any]:
    names = [label for label in labels for _ in range(each)]
    task = "binary" if len(labels) == 2 else "multiclass"
    return made(task, labels, [f"text {i}" for i in range(len(names))], names)


def cell(page: str, metric: str) -> str:
    """What stands beside a metric."""
    return re.findall(rf"<td>{re.escape(metric)}</td><td class=\"n\">(.*?)</td>", page, re.S)[0]


def test_a_page_needs_no_network_and_runs_no_script() -> None:
    page = render([many(("no", "yes"))], "A report")
    assert "<script" not in page and "@import" not in page and "<link" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert re.findall(r"https?://[^\"'\s<]*", page.replace("http://www.w3.org/", "")) == []
    assert page.count("<svg") == 4


def test_the_same_results_make_the_same_page() -> None:
    assert render([many(("no", "yes"))], "A") == render([many(("no", "yes"))], "A")


def test_names_and_texts_are_never_markup() -> None:
    texts = ["<script>alert(1)</script>", "</blockquote><h1>", "{{ 7 * 7 }}"] * 10
    labels = [NASTY[i % len(NASTY)] for i in range(30)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a font that lacks a letter would warn
        page = render([made("multiclass", NASTY, texts, labels)], "<i>title</i>")
    assert "<script" not in page and "<b>bold" not in page and "<i>title" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page and "{{ 7 * 7 }}" in page
    assert "危険 🔥" in page and "$x_1$ &amp; co" in page


def test_undefined_metrics_say_so_and_are_not_zero() -> None:
    page = render([many(("no", "yes"))], "A")
    assert "undefined" in cell(page, "TPR at 0.1 % FPR")
    assert "takes a binary probe" in page
    one_side = made("binary", ("no", "yes"), ["a", "b", "c"], ["no"] * 3)
    page = render([one_side], "A")
    for metric in ("F1", "AUPRC", "AUROC"):
        assert "undefined" in cell(page, metric) and "0.000" not in cell(page, metric)
    assert "Undefined: every row is on one side." in page


@pytest.mark.parametrize("each", [1, 2])
def test_two_hundred_labels_with_a_row_each_make_a_page(each: int) -> None:
    labels = tuple(str(i) for i in range(200))
    page = render([many(labels, each)], "A")
    assert "The most frequent mistakes among 200 labels" in page
    assert len(page) < 1_500_000


def test_a_single_row_makes_a_page() -> None:
    page = render([made("multiclass", ("a", "b", "c"), ["word"], ["a"])], "A")
    assert "undefined" in cell(page, "AUROC")
    assert "1 texts of the data" in page or "(1 texts" in page


def test_multilabel_rows_without_labels_make_a_page() -> None:
    page = render(
        [made("multilabel", ("a", "b"), ["x", "y", "z"] * 5, [["a"], [], ["a", "b"]] * 5)], "A"
    )
    assert "wrongly given" in page and "nothing" in page


def test_rows_of_one_of_several_sets_are_the_probes_own_too() -> None:
    """Only the digest of all sets together was looked at, which no file has."""
    texts, labels = ["one", "two"], ["no", "yes"]
    digest = Rows.of(texts, labels, "rows.csv").sha256
    one = {"name": "a", "path": "a.csv", "sha256": digest, "num_rows": 2, "labels": labels}
    warning = "These are the rows that the probe was trained on"
    for sets in ([one], []):
        content = made("binary", ("no", "yes"), texts, labels, data={**DATA, "sets": sets})
        assert (warning in render([content], "page")) == bool(sets)


def test_validation_rows_of_a_second_fit_are_the_probes_own_too() -> None:
    """Which file they came from stood on the card, and was not looked at."""
    texts, labels = ["one", "two"], ["no", "yes"]
    data = {**DATA, "validation_sha256": Rows.of(texts, labels, "rows.csv").sha256}
    for refit in (True, False):
        more = {"data": data, "training": {"refit": refit}}
        content = made("binary", ("no", "yes"), texts, labels, **more)
        assert ("These are the rows that the probe was" in render([content], "page")) == refit


def test_a_text_of_eight_thousand_words_is_cut_on_the_page() -> None:
    texts = ["word", "word " * 8000] * 5
    page = render([made("binary", ("no", "yes"), texts, ["no", "yes"] * 5)], "A")
    assert len(page) < 150_000
    assert "4,097 or more" in page and "…" in page


def test_examples_lie_behind_a_click_and_can_be_left_out() -> None:
    content = many(("no", "yes"))
    page = render([content], "A")
    hidden = re.findall(r"<details><summary>The surest mistakes.*?</details>", page, re.S)
    assert len(hidden) == 1 and "text " in hidden[0]
    assert "<blockquote" not in render([{**content, "examples": {}}], "A")


def test_decisions_on_the_card_are_shown_with_their_intervals() -> None:
    probe = made_artefact("binary", ("no", "yes"))
    rng = np.random.default_rng(0)
    targets = rng.integers(2, size=400)
    probs = 1 / (1 + np.exp(-rng.normal(size=(400, 1)) * 2 - 4 * (targets[:, None] - 0.5)))
    wanted = CalibrationSettings(
        "platt", Operating(target_fpr=0.05, target_fnr=0.05, cost_escalation=2.0), coverage=0.9
    )
    data = {"path": "held.csv", "sha256": "e" * 64, "num_rows": 400}
    probe, found = calibrate(probe, probs, targets, wanted, data)
    rows = made_rows(probe, ["x", "y"] * 20, ["no", "yes"] * 20)
    verdicts = [probe.verdict(p) for p in made_probs(probe, rows).tolist()]
    page = render([evaluation(probe, rows, Scored(verdicts), [1, 1] * 20, {})], "A")
    assert f"{found['thresholds'][0]['threshold']:.3f}" in page
    assert "are handed on" in page and "Escalations cost" in page
    assert "90.0%" in page and "held.csv" in page


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_file_of_the_repository_makes_a_section(path: Path) -> None:
    content = read_content(path)
    page = render([content, many(("no", "yes"))], "A")
    assert content["name"] in page and '<a href="#s2">' in page


def test_what_is_no_result_file_is_refused_by_name(tmp_path: Path) -> None:
    for name, text in (("a.json", "{"), ("b.json", "[1]"), ("c.json", '{"name": 1}')):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=f"{name} is no result file"):
            read_content(tmp_path / name)
    with pytest.raises(DataError, match="is no result file"):
        read_content(tmp_path / "absent.json")


def test_a_result_file_with_a_part_missing_is_refused_and_the_old_page_stays(
    tmp_path: Path,
) -> None:
    content = many(("no", "yes"))
    out = tmp_path / "report.html"
    write_report([content], out, "A")
    before = out.read_bytes()
    broken = json.loads(json.dumps(content))
    del broken["predictions"]
    with pytest.raises(DataError, match="is not complete"):
        write_report([broken], out, "A")
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]
    with pytest.raises(DataError, match="no result file to report"):
        render([], "A")
