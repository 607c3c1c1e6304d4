"""`pillion bench accuracy`, on the shipped engine without weights."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from program import Ran, Refused, Run, write_rows

from pillion_bench.baselines import METHODS, Method, newton
from pillion_bench.run_folder import RunFolder

TEXTS = {
    "fine": ("what a lovely day {}", "good work, thank you {}"),
    "poor": ("awful, it broke {}", "bad, bad idea {}"),
    'so, "so"': ("it is okay {}", "neither here nor there {}"),
}
SUITE = """
name = "mini"
model = "fake"
seeds = [0, 1]
[data.mood]
train = "rows.jsonl"
test = 0.3
template = "raw"
[methods.gate]
kind = "probe"
settings = { learning_rate = 0.03, longest = 2, train = { epochs = 2 } }
[methods.best-layer]
kind = "best-layer"
[methods.all-layers]
kind = "all-layers"
settings = { strengths = [0.01, 0.1] }
[methods.tfidf]
kind = "tfidf"
settings = { strengths = [1.0] }
[methods.length]
kind = "length"
[methods.shuffled]
kind = "shuffled"
"""


def dealt(labels: list[str], num_rows: int = 120) -> list[dict[str, Any]]:
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for i in range(num_rows):
        label = draw.choice(labels)
        rows.append({"text": draw.choice(TEXTS[label]).format(i), "label": label})
    return rows


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data file of three classes, one with commas and quotes, and a suite."""
    write_rows(tmp_path / "rows.jsonl", dealt(list(TEXTS)))
    (tmp_path / "suite.toml").write_text(SUITE, encoding="utf-8")
    return tmp_path


def bench(run: Run, place: Path, *words: str | Path, locked: bool = True) -> Ran:
    given = ("--suite", place / "suite.toml", "--data-root", place, "--out", place / "run")
    return run("bench", "accuracy", *given, *(["--locked"] if locked else []), *words)


def result(place: Path, name: str = "mini-mood") -> dict[str, Any]:
    return json.loads((place / "run" / f"{name}.json").read_text())


def values(place: Path, metric: str) -> dict[str, Any]:
    return {e["method"]: e["value"] for e in result(place)["results"] if e["metric"] == metric}


def test_every_method_is_measured_on_the_same_rows(run: Run, place: Path) -> None:
    ran = bench(run, place, "--json", "--times", "3")
    assert ran.code == 0, ran.err
    assert ran.json == {"results": [str(place / "run" / "mini-mood.json")]}
    accuracy = values(place, "test_accuracy")
    assert accuracy.keys() == {
        *("gate", "best-layer", "all-layers", "tfidf", "length", "shuffled"),
    }
    assert accuracy["tfidf"] > 0.9 > 0.7 > accuracy["shuffled"]
    entries = result(place)["results"]
    assert {e["rows"] for e in entries if e["metric"].startswith("test_")} == {36}
    (gate,) = (e for e in entries if (e["method"], e["metric"]) == ("gate", "test_accuracy"))
    assert gate["seeds"] == [0, 1] and len(gate["per_seed"]) == 2 and gate["spread"] is not None
    assert gate["interval"][0] <= gate["difference"] <= gate["interval"][1]
    assert all(value > 0 for value in values(place, "parameters").values())
    assert values(place, "added_ms").keys() == accuracy.keys()


def test_without_a_lock_no_test_row_is_read(run: Run, place: Path) -> None:
    """Test rows were read while deciding what to build, so that their numbers were no test."""
    suite = SUITE.replace("test = 0.3", 'test = "not-there.jsonl"\nrecalls = ["poor"]')
    (place / "suite.toml").write_text(suite, encoding="utf-8")
    page = place / "page.md"
    ran = bench(run, place, "--times", "2", "--page", page, locked=False)
    assert ran.code == 0, ran.err
    found = result(place, "mini-mood-validation")
    assert found["split"] == "validation" and "reads" not in found
    assert {entry["split"] for entry in found["data"]} == {"train"}
    named = {entry["metric"] for entry in found["results"]}
    assert not [name for name in named if name.startswith("test")]
    assert {"validation_accuracy", "validation_recall of poor"} <= named
    (gate,) = (
        e for e in found["results"] if (e["method"], e["metric"]) == ("gate", "validation_accuracy")
    )
    assert gate["rows"] == 12 and gate["interval"][0] <= gate["difference"] <= gate["interval"][1]
    assert "<!-- accuracy: mood, validation -->" in page.read_text(encoding="utf-8")
    assert bench(run, place, "--times", "0").code == 2, "a locked run wants the test rows"


def test_a_locked_run_says_commit_choices_and_how_often_test_rows_were_read(
    run: Run, place: Path
) -> None:
    words = ("--times", "0", "--method", "tfidf", "--method", "gate")
    assert bench(run, place, *words, locked=False).code == 0
    assert bench(run, place, *words).code == 0
    found = result(place)
    assert found["split"] == "test"
    assert found["reads"] == [{"date": found["date"], "commit": found["commit"]}]
    methods = found["settings"]["methods"]
    (tfidf,), gate = (methods[name]["seeds"] for name in ("tfidf", "gate"))
    assert tfidf["commit"] == found["commit"]
    assert tfidf["chosen"]["chosen_by"] == "accuracy of 5 folds"
    assert [one["chosen"]["epochs"] for one in gate] == [gate[0]["chosen"]["epochs"]] * 2
    best = found["settings"]["best_probe"]
    assert best["method"] == "gate" and best["by"].startswith("default: 8 validation rows")
    assert best["share_of_draws"] == {"gate": 1.0}
    earlier = {**found, "reads": [{"date": "2026-01-01", "commit": "abc"}]}
    (place / "run" / "mini-mood.json").write_text(json.dumps(earlier), encoding="utf-8")
    assert bench(run, place, *words).code == 0
    assert [one["commit"] for one in result(place)["reads"]] == ["abc", found["commit"]]


def test_a_baseline_that_does_not_converge_is_an_error_and_no_number(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Baselines stopped after a few steps, and their numbers stood in the tables."""
    monkeypatch.setattr(newton, "STEPS", 1)
    ran = bench(run, place, "--times", "0", "--method", "tfidf", locked=False)
    assert ran.code == 1 and not list((place / "run").glob("*.json"))
    assert "mood, tfidf: Logistic regression with C = 1 is not at its optimum" in ran.err


def test_what_is_undefined_is_a_word_and_never_a_number(run: Run, place: Path) -> None:
    write_rows(place / "rows.jsonl", dealt(["fine", "poor"]))
    page = place / "page.md"
    ran = bench(run, place, "--method", "length", "--times", "0", "--page", page)
    assert ran.code == 0, ran.err
    (entry,) = (e for e in result(place)["results"] if e["metric"] == "test_tpr_at_fpr_1")
    assert entry["value"] is None and entry["reason"].startswith("not enough negatives (")
    text = page.read_text(encoding="utf-8")
    assert "| not enough negatives |" in text and " of 1,000)." in text


def test_what_is_done_is_not_done_again(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(run, place, "--times", "0").code == 0
    before = result(place)

    def refuse(*_: object) -> None:
        raise AssertionError("a method was fitted again")

    for method in set(METHODS.values()):
        monkeypatch.setattr(method, "fit", refuse)
    assert bench(run, place, "--times", "0").code == 0
    assert result(place) == before
    changed = SUITE.replace("learning_rate = 0.03", "learning_rate = 0.02")
    (place / "suite.toml").write_text(changed, encoding="utf-8")
    ran = bench(run, place, "--times", "0")
    assert ran.code == 1 and "fitted again" in ran.err


def test_an_interrupted_run_goes_on(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = METHODS["tfidf"].fit

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(METHODS["tfidf"], "fit", interrupted)
    ran = bench(run, place, "--times", "0")
    assert ran.code == 1 and "the same command goes on" in ran.err
    cells = {path.parent.name for path in (place / "run" / "locked" / "mood").rglob("*.json")}
    assert cells == {"gate", "best-layer", "all-layers"}
    monkeypatch.setattr(METHODS["tfidf"], "fit", whole)
    kept = RunFolder(place / "run", locked=True).path / "locked" / "mood" / "gate" / "seed-0.json"
    before = kept.stat().st_mtime_ns
    assert bench(run, place, "--times", "0").code == 0
    assert kept.stat().st_mtime_ns == before
    assert "tfidf" in values(place, "test_f1")


def test_states_are_extracted_once_for_all_methods(run: Run, place: Path) -> None:
    ran = bench(run, place, "--times", "0", "--states", place / "states")
    assert ran.code == 0
    assert ran.err.count("on disk") == 1
    assert (place / "states" / "mood" / "train" / "manifest.json").exists()
    assert not (place / "run" / "states").exists()


def test_a_method_that_cannot_be_used_is_said_and_the_rest_is_measured(
    run: Run, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def why_not(self: Method, problem: object, backend: object) -> str:
        return "It has no head for this."

    monkeypatch.setattr(METHODS["tfidf"], "why_not", why_not)
    page = place / "page.md"
    assert bench(run, place, "--times", "0", "--page", page).code == 0
    assert "tfidf" not in values(place, "test_accuracy")
    assert "tfidf: not measured. It has no head for this." in page.read_text(encoding="utf-8")


def test_a_page_keeps_what_stands_around_its_tables(run: Run, place: Path) -> None:
    page = place / "page.md"
    page.write_text(
        "# Mine\n\nBefore.\n\n<!-- accuracy: mood -->\nold\n<!-- end: mood -->\n\nAfter.\n",
        encoding="utf-8",
    )
    words = ("--method", "length", "--times", "0", "--page", page)
    assert bench(run, place, *words).code == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Mine\n\nBefore.\n") and text.endswith("\n\nAfter.\n")
    assert "old" not in text and "| length (control) |" in text
    assert (place / "plots" / "mini-mood.png").read_bytes().startswith(b"\x89PNG")
    bench(run, place, *words)
    assert page.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([str(i) for i in range(40)], "one row a label"),
        (["1", "0"] * 20, "numbers"),
        ([f"class {i}" for i in range(200)] * 2, "200 classes"),
    ],
)
def test_odd_labels_still_give_a_report(run: Run, place: Path, labels: list[str], why: str) -> None:
    write_rows(
        place / "rows.jsonl",
        [{"text": f"{label} and {i}", "label": label} for i, label in enumerate(labels)],
    )
    words = ("--method", "gate", "--method", "best-layer", "--method", "tfidf", "--times", "0")
    ran = bench(run, place, *words, "--page", place / "page.md")
    assert ran.code == 0, (why, ran.err)
    assert values(place, "test_accuracy").keys() == {"gate", "best-layer", "tfidf"}


def test_short_and_long_texts_still_give_a_report(run: Run, place: Path) -> None:
    rows = dealt(["fine", "poor"], 40)
    rows[0]["text"], rows[1]["text"], rows[2]["text"] = "a", "!", "b" * 500
    write_rows(place / "rows.jsonl", rows)
    assert bench(run, place, "--times", "2").code == 0
    rows[3]["text"] = "c" * 600
    write_rows(place / "rows.jsonl", rows)
    ran = bench(run, place, "--times", "0")
    assert ran.code == 2
    assert "mood, train: Row 4: the text has 600 tokens, the model takes 512" in ran.err


def test_names_that_are_not_there_are_refused(refused: Refused, place: Path) -> None:
    given = ("--suite", place / "suite.toml", "--data-root", place, "--out", place / "run")
    words = ("bench", "accuracy", *given)
    assert "Did you mean 'mood'" in refused(*words, "--data", "moods")
    assert "Did you mean 'tfidf'" in refused(*words, "--method", "tfdf")
    assert "does not exist" in refused(*words[:-4], "--data-root", place / "no", *words[-2:])
    assert "give one" in refused("bench", "accuracy", "--out", place / "run", "--suite", "x.ini")
    assert not (place / "run").exists()


def episodes(run: Run, place: Path, *words: str | Path, locked: bool = False) -> Ran:
    given = ("--episodes", "3", "--shots", "4,2", "--method", "tfidf", "--method", "gate")
    return bench(run, place, *given, *words, locked=locked)


def test_episodes_give_a_mean_and_an_interval_a_number_of_rows(run: Run, place: Path) -> None:
    ran = episodes(run, place)

    assert ran.code == 0, ran
    found = result(place, "mini-mood-episodes-validation")
    entries = [one for one in found["results"] if one["metric"] == "accuracy"]
    told = [(one["method"], one["shots"]) for one in entries]
    assert told == [("gate", 2), ("tfidf", 2), ("gate", 4), ("tfidf", 4)]
    for one in entries:
        assert len(one["per_episode"]) == one["episodes"] == 3
        assert abs(sum(one["per_episode"]) / 3 - one["value"]) < 1e-9
        assert one["interval"][0] <= one["value"] <= one["interval"][1]
    gate, tfidf = entries[:2]
    assert gate["baseline"] == "tfidf" and "baseline" not in tfidf
    assert abs(gate["difference"] - (gate["value"] - tfidf["value"])) < 1e-9
    assert "accuracy by rows a label" in ran.out and " ± " in ran.out


def test_episodes_that_are_done_are_not_done_again_and_more_are_added(
    run: Run, place: Path
) -> None:
    assert "2 rows a label" in episodes(run, place).err
    assert "rows a label" not in episodes(run, place).err
    more = bench(
        run, place, *("--episodes", "4", "--shots", "2,4", "--method", "tfidf"), locked=False
    )
    assert more.code == 0, more
    found = result(place, "mini-mood-episodes-validation")["results"]
    assert {one["method"] for one in found} == {"tfidf"}
    assert len(list((place / "run/cells/mood/tfidf/shots-2").glob("*.json"))) == 4


def test_episodes_ask_test_rows_only_where_these_are_locked(run: Run, place: Path) -> None:
    assert episodes(run, place, locked=True).code == 0
    found = result(place, "mini-mood-episodes")
    assert found["split"] == "test" and len(found["reads"]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shots", "2,90"], "has [0-9]+ training rows, and an episode wants 90 of each label"),
        (["--shots", "2,90", "--ways", "2"], "Only 0 labels have 90 training rows"),
        (["--shots", "2", "--ways", "9"], "wants 9 labels and there are 3"),
        (["--shots", "two"], "--shots is 'two'"),
        (["--shots", "1"], r"numbers of 2 or more"),
        (["--episodes", "1", "--shots", "2"], "Got 1 episodes"),
        (["--page", "page.md"], "--page holds tables"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(
    refused: Refused, place: Path, words: list[str], said: str
) -> None:
    given = ("--suite", place / "suite.toml", "--data-root", place, "--out", place / "run")
    first = [] if "--episodes" in words else ["--episodes", "2"]
    assert re.search(said, refused("bench", "accuracy", *given, *first, *words))
