"""Every file that a verb writes is read by the verb that is said to read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Run, two_classes, write_rows

FAKE = ("--model", "fake")
SUITE = """
name = "mini"
model = "fake"
seeds = [0]
[data.mood]
train = "rows.jsonl"
test = 0.3
[methods.gate]
kind = "probe"
settings = { learning_rate = 0.03, longest = 2, train = { epochs = 2 } }
[methods.tfidf]
kind = "tfidf"
settings = { strengths = [1.0] }
[methods.length]
kind = "length"
"""


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere."""
    monkeypatch.setattr("pillion_bench.real.measures.NUM_RESAMPLES", 10)


def trained(run: Run, probe: Path, place: Path) -> Path:
    """`train --out`."""
    return probe


def calibrated(run: Run, probe: Path, place: Path) -> Path:
    """`calibrate --out`."""
    words = ["--probe", probe, "--data", place / "more.jsonl", *FAKE, "--coverage", "0.8"]
    assert run("calibrate", *words, "--abstain", "0.1", "--out", place / "new").code == 0
    return place / "new"


def evaluated(run: Run, probe: Path, place: Path) -> Path:
    """`evaluate --out`."""
    words = ["--probe", probe, "--data", place / "rows.jsonl", *FAKE]
    assert run("evaluate", *words, "--out", place / "e.json", "--examples", 1).code == 0
    return place / "e.json"


def studied(run: Run, probe: Path, place: Path) -> Path:
    """`layers --out`."""
    words = ["--data", place / "rows.jsonl", *FAKE, "--probe", probe]
    assert run("layers", *words, "--out", place / "l.json").code == 0
    return place / "l.json"


def compared(run: Run, probe: Path, place: Path) -> Path:
    """`bench accuracy --out`."""
    (place / "suite.toml").write_text(SUITE)
    words = ["--suite", place / "suite.toml", "--data-root", place, "--times", 0]
    ran = run("bench", "accuracy", *words, "--out", place / "run", "--json")
    assert ran.code == 0, ran.err
    return Path(ran.json["results"][0])


def questioned(run: Run, probe: Path, place: Path) -> Path:
    """`bench real --out`."""
    rows = ["--train", place / "rows.jsonl", "--test", place / "more.jsonl"]
    few = ["--sample", 0, "--needles", 0, "--curves", 0, "--baseline", "length"]
    ran = run("bench", "real", *rows, *FAKE, *few, "--out", place / "real.json")
    assert ran.code == 0, ran.err
    return place / "real.json"


def extracted(run: Run, probe: Path, place: Path) -> Path:
    """`extract --out`."""
    words = ["--data", place / "rows.jsonl", *FAKE, "--out", place / "states"]
    assert run("extract", *words).code == 0
    return place / "states"


def kept(run: Run, probe: Path, place: Path) -> Path:
    """`train --cache`."""
    words = ["--data", place / "rows.jsonl", *FAKE, "--cache", place / "states"]
    assert run("train", *words, "--out", place / "first").code == 0
    return place / "states"


def by_report(run: Run, written: Path, place: Path) -> None:
    """`report FILE`: a section that knows what it shows, or a table of its results."""
    ran = run("report", written, "--out", place / "page.html", "--json")
    assert ran.code == 0, ran.err
    content = json.loads(written.read_text())
    page = (place / "page.html").read_text()
    assert ran.json["sections"] == [content["name"]]
    assert "more rows are in the result file" not in page
    assert ("<h3>" in page) == ("kind" in content)


def by_train(run: Run, written: Path, place: Path) -> None:
    """`train --cache`: the states are taken as they are, and no pass is run for them."""
    files = {path: path.stat().st_mtime_ns for path in sorted(written.rglob("*")) if path.is_file()}
    words = ["--data", place / "rows.jsonl", *FAKE, "--cache", written, "--out", place / "second"]
    assert run("train", *words).code == 0
    again = {path: path.stat().st_mtime_ns for path in sorted(written.rglob("*")) if path.is_file()}
    assert again == files


def by_predict(run: Run, written: Path, place: Path) -> None:
    """`predict --probe`."""
    assert "label" in run("predict", "--probe", written, "--text", "good", *FAKE).lines[0]


def by_evaluate(run: Run, written: Path, place: Path) -> None:
    """`evaluate --probe`."""
    words = ["--probe", written, "--data", place / "more.jsonl", *FAKE]
    assert run("evaluate", *words, "--json").json["rows"] == 20


def by_calibrate(run: Run, written: Path, place: Path) -> None:
    """`calibrate --probe`."""
    words = ["--probe", written, "--data", place / "more.jsonl", *FAKE]
    assert run("calibrate", *words, "--out", place / "again", "--json").json["method"]


def by_explain(run: Run, written: Path, place: Path) -> None:
    """`explain --probe`."""
    assert run("explain", "--probe", written, "--text", "good", *FAKE, "--json").json["exact"]


def by_layers(run: Run, written: Path, place: Path) -> None:
    """`layers --probe`."""
    words = ["--probe", written, "--data", place / "more.jsonl", *FAKE]
    assert all(row["weight"] for row in run("layers", *words, "--json").json["results"])


def by_generate(run: Run, written: Path, place: Path) -> None:
    """`generate --probe`."""
    words = ["hello", "--probe", written, *FAKE, "--max-tokens", 2]
    assert written.name in run("generate", *words, "--json").json["prompt"]


def by_inspect(run: Run, written: Path, place: Path) -> None:
    """`inspect DIR`."""
    assert run("inspect", written, "--json").json["labels"] == ["fine", "poor"]


def by_report_of_a_probe(run: Run, written: Path, place: Path) -> None:
    """`report --probe`."""
    words = ["--probe", written, "--data", place / "more.jsonl", *FAKE]
    assert run("report", *words, "--out", place / "page.html").code == 0


PROBE_READERS = (
    *(by_predict, by_evaluate, by_calibrate, by_explain, by_layers, by_generate, by_inspect),
    by_report_of_a_probe,
)
PAIRS: list[tuple[Callable[..., Path], Callable[..., None]]] = [
    *((trained, reader) for reader in PROBE_READERS),
    *((calibrated, reader) for reader in PROBE_READERS),
    *((result, by_report) for result in (evaluated, studied, compared, questioned)),
    (extracted, by_train),
    (kept, by_train),
]


@pytest.mark.parametrize(
    ("write", "read"), PAIRS, ids=lambda one: (one.__doc__ or "").split(":")[0].strip("`.")
)
def test_what_one_verb_writes_another_reads(
    write: Callable[..., Path],
    read: Callable[..., None],
    run: Run,
    probe: Path,
    tmp_path: Path,
) -> None:
    """`report layers.json` was refused, though help and documents said that it reads it."""
    write_rows(tmp_path / "rows.jsonl", two_classes(40))
    write_rows(tmp_path / "more.jsonl", two_classes(60)[40:])
    read(run, write(run, probe, tmp_path), tmp_path)
