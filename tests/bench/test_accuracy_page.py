"""Tables say what result files hold, and the page in the documents is made of the files there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score

from pillion.errors import DataError
from pillion_bench.report import AccuracyResult, plain_table, read_result, section, with_sections
from pillion_bench.report.accuracy_plots import draw_accuracy

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "benchmarks" / "results"


def entry(metric: str, method: str, value: float | None, **rest: Any) -> dict[str, Any]:
    per_seed = [] if value is None else [value - 0.01, value + 0.01]
    spread = None if value is None else 0.0141
    return {
        "metric": metric,
        "method": method,
        "value": value,
        "spread": spread,
        "per_seed": per_seed,
        **rest,
    }


@pytest.fixture
def result() -> AccuracyResult:
    """Two probes, two baselines and a control on a binary task with few negatives."""
    few = {"reason": "not enough negatives (80 of 1,000)"}
    roles = {"gate": "probe", "mha": "probe", "tfidf": "baseline", "muli": "baseline"}
    methods: dict[str, Any] = {name: {"role": role} for name, role in roles.items()}
    methods["length"] = {"role": "control"}
    methods["lora"] = {"role": "mark", "not_measured": "It needs peft."}
    rows = {"train": 1200, "validation": 130, "test": 400}
    model = {"name": "embedded", "dtype": "bfloat16"}
    against = {"baseline": "muli", "difference": 0.1, "interval": [0.05, 0.15]}
    return AccuracyResult(
        {
            "name": "accuracy-mood",
            "settings": {
                "data_set": "mood",
                "data": {"template": "raw", "layers": None},
                "num_labels": 2,
                "leading": ["f1", "auprc"],
                "rows": rows,
                "model": model,
                "notes": ["A note."],
                "methods": methods,
            },
            "results": [
                entry("test_f1", "gate", 0.8, **against),
                entry("test_f1", "mha", 0.85, **against),
                entry("test_f1", "tfidf", 0.6, **against),
                entry("test_f1", "muli", 0.7),
                entry("test_f1", "length", None),
                entry("test_tpr_at_fpr_01", "gate", None, **few),
                {"metric": "parameters", "method": "gate", "value": 21894},
                {
                    "metric": "added_ms",
                    "method": "gate",
                    "value": 1.26,
                    "bare_ms": 80.0,
                    "weights_bytes": 700_000,
                },
                {"metric": "not_measured", "method": "lora", "value": None, "reason": "..."},
            ],
        }
    )


def lines(text: str) -> list[list[str]]:
    """The cells of the table in a text."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_methods_stand_by_role_and_best_first(result: AccuracyResult) -> None:
    assert result.methods() == ["mha", "gate", "muli", "tfidf", "length"]
    names = [row[0] for row in lines(section(result))[2:]]
    assert names == ["`mha`", "`gate`", "muli (baseline)", "tfidf (baseline)", "length (control)"]


def test_a_cell_is_mean_and_spread_or_a_word(result: AccuracyResult) -> None:
    head, _, *rows = lines(section(result))
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert table["`gate`"]["F1"] == "0.800 ± 0.014"
    assert table["`gate`"]["TPR at 0.1 % FPR"] == "not enough negatives"
    assert table["`gate`"]["F1 against the best baseline"] == "+0.100 [+0.050, +0.150]"
    assert table["`gate`"]["parameters"] == "21,894"
    assert (table["`gate`"]["ms added"], table["`gate`"]["MB kept"]) == ("1.3", "0.7")
    assert table["length (control)"]["F1"] == "undefined"
    assert table["muli (baseline)"]["F1 against the best baseline"] == "–"
    assert "accuracy" not in head, "no method has it"


def test_what_has_to_be_known_stands_below_the_table(result: AccuracyResult) -> None:
    text = section(result)
    for note in (
        "The best baseline by F1 on the test rows is muli",
        "TPR at 0.1 % FPR: not enough negatives (80 of 1,000).",
        "The bare pass takes 80 ms a text",
        "lora: not measured. It needs peft.",
        "A note.",
    ):
        assert f"\n- {note}" in text
    assert "1,200 rows to train on" in text


def test_what_is_not_flattering_stands_below_the_table(result: AccuracyResult) -> None:
    settings = {
        **result.content["settings"],
        "positives": {"test": 0.125},
        "best_probe": {
            "method": "gate",
            "by": "default: 130 validation rows do not choose between probes",
            "share_of_draws": {"gate": 0.4, "mha": 0.6, "gates": 0.0},
        },
    }
    reads = [{"date": "2026-01-01", "commit": None}, {"date": "2026-02-02", "commit": "a" * 40}]
    results = [
        *result.content["results"],
        {**entry("test_f1", "los-net", 0.0), "per_seed": [0.0]},
        {**entry("test_accuracy", "los-net", 0.8), "per_seed": [0.8]},
        entry("test_recall of poor", "gate", 0.25),
    ]
    settings["methods"] = {**settings["methods"], "los-net": {"role": "baseline"}}
    text = section(
        AccuracyResult({**result.content, "settings": settings, "reads": reads, "results": results})
    )
    for note in (
        "Best probe: `gate` (default: 130 validation rows do not choose between probes); "
        "validation rows drawn anew choose `gate` 40%, `mha` 60%.",
        "Test rows were read 2 times for this table, last on 2026-02-02, at commit aaaaaaaaaaaa.",
        "12.5% of the test rows are positive: the AUPRC of chance.",
        "los-net finds no positive row: the threshold that validation gave it chose nothing",
    ):
        assert f"\n- {note}" in text
    head, _, *rows = lines(text)
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert table["`gate`"]["recall of poor"] == "0.250"
    assert table["los-net (baseline)"]["macro F1"] == "0.444", "of 0 and 0.889"
    assert table["`gate`"]["macro F1"] == "–"


def test_two_labels_that_a_row_may_both_have_are_no_binary_task(result: AccuracyResult) -> None:
    """Their F1 is a mean already, and their accuracy of both labels at once."""
    found = entry("test_accuracy", "gate", 0.9), entry("test_f1", "mha", 0.0)
    settings = {**result.content["settings"], "task": "multilabel"}
    content = {**result.content, "results": [*result.content["results"], *found]}
    several = AccuracyResult({**content, "settings": settings})
    assert several.macro_f1("gate") is None and "macro F1" not in section(several)
    assert "finds no positive row" not in section(several)
    assert AccuracyResult(content).macro_f1("gate") is not None


def test_macro_f1_follows_from_f1_and_accuracy(result: AccuracyResult) -> None:
    truth, said = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]
    f1, right = f1_score(truth, said), accuracy_score(truth, said)
    results = [
        {**entry("test_f1", "gate", f1), "per_seed": [f1, 1.0]},
        {**entry("test_accuracy", "gate", right), "per_seed": [right, 1.0]},
    ]
    found = AccuracyResult({**result.content, "results": results}).macro_f1("gate")
    assert found == pytest.approx((f1_score(truth, said, average="macro") + 1) / 2)


def test_sections_are_replaced_in_place_and_the_rest_stays(result: AccuracyResult) -> None:
    page = with_sections("# Title\n\nProse.\n", [result])
    assert page.startswith("# Title\n\nProse.\n\n## mood\n")
    assert with_sections(page, [result]) == page
    worn = page.replace("0.800", "0.900") + "\nMore prose.\n"
    assert with_sections(worn, [result]) == page + "\nMore prose.\n"


def test_the_terminal_shows_the_leading_numbers(result: AccuracyResult) -> None:
    shown = plain_table(result)
    assert shown[0].split() == ["method", "F1", "AUPRC", "ms", "added"]
    assert shown[2].split() == ["gate", "0.800", "±", "0.014", "–", "1.3"]


def test_a_plot_is_drawn_of_what_is_there(result: AccuracyResult, tmp_path: Path) -> None:
    path = tmp_path / "new" / "mood.png"
    draw_accuracy(result, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in path.parent.iterdir()] == ["mood.png"]


@pytest.mark.parametrize("content", ["", "[]", '{"name": "x"}'])
def test_what_is_no_result_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="is no result file"):
        read_result(path)


def test_the_page_of_results_is_made_of_the_result_files() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"<!-- accuracy: (.+?) -->", page)
    files = {
        content["settings"]["data_set"]: content
        for path in RESULTS.glob("accuracy-*.json")
        if (content := json.loads(path.read_text(encoding="utf-8"))).get("split", "test") == "test"
    }
    assert sorted(named) == sorted(files)
    results = [AccuracyResult(files[name]) for name in named]
    assert with_sections(page, results) == page
