"""`pillion train`, on the shipped engine without weights."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import pytest
from program import Refused, Run, two_classes, write_rows

from pillion.core.defaults import FEW_ROWS
from pillion.fit import FitSettings
from pillion.probe import AGGREGATORS, Artefact
from pillion.train import TrainSettings


def train(run: Run, data: Path, out: Path, *words: str | Path) -> Any:
    """Runs it with `--json`; gives the object."""
    ran = run("train", "--data", data, "--model", "fake", "--out", out, "--json", *words)
    assert ran.code == 0, ran.err
    return ran.json


def test_the_words_of_the_readme_train_a_probe(run: Run, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "new" / "mood"
    words = ("--validation", data, "--text-column", "text", "--label-column", "label")
    ran = run("train", "--data", data, *words, "--kind", "gate", "--out", out, "--model", "fake")
    assert ran.code == 0
    assert "validation: accuracy" in ran.out
    card = Artefact.load(out).card
    assert (card.probe, card.template, card.labels) == ("gate", "chat", ("fine", "poor"))
    assert card.data.path == "rows.jsonl" and card.data.num_rows == 40
    assert card.data.validation_sha256 == card.data.sha256


def test_the_next_step_that_train_prints_works(run: Run, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "[bold]my :smile: probe[/bold]"
    ran = run("train", "--data", data, "--model", "fake", "--out", out)
    assert str(out) in ran.out
    _, _, command = ran.out.partition("Next: pillion ")
    assert run(*shlex.split(command)).lines[0]["label"] in {"fine", "poor"}


def test_nothing_but_the_probe_is_left(run: Run, tmp_path: Path, data: Path) -> None:
    train(run, data, tmp_path / "mood")
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "mood"}
    assert {path.name for path in (tmp_path / "mood").iterdir()} == {
        "card.json",
        "probe.safetensors",
    }


def test_a_probe_is_replaced_by_the_next_training(run: Run, tmp_path: Path, data: Path) -> None:
    train(run, data, tmp_path / "mood")
    train(run, data, tmp_path / "mood", "--kind", "pooling")
    assert Artefact.load(tmp_path / "mood").card.probe == "pooling"


def test_an_empty_folder_is_taken(run: Run, tmp_path: Path, data: Path) -> None:
    (tmp_path / "mood").mkdir()
    train(run, data, tmp_path / "mood")
    assert Artefact.load(tmp_path / "mood").card.probe == "gate"


def test_the_working_directory_is_taken_if_it_is_empty(
    run: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    train(run, data, Path("."))
    assert Artefact.load(tmp_path / "here").card.probe == "gate"


def test_every_combination_of_repeated_options_is_trained_and_the_best_kept(
    run: Run, tmp_path: Path, data: Path
) -> None:
    words = ("--kind", "gate", "--probe", "mha", "--seed", "0", "--seed", "1", "--heads", "2")
    facts = train(run, data, tmp_path / "mood", *words, "--epochs", "1")
    runs = facts["runs"]
    assert {(one["probe"], one["seed"]) for one in runs} == {
        *(("gate", 0), ("gate", 1), ("mha", 0), ("mha", 1))
    }
    scores = [one["validation"]["auprc"] for one in runs]
    assert scores == sorted(scores, reverse=True)
    card = Artefact.load(tmp_path / "mood").card
    assert (card.probe, card.seed) == (facts["probe"], facts["seed"])
    assert card.settings["num_heads"] == 2


def test_options_reach_the_card(run: Run, tmp_path: Path, data: Path) -> None:
    words = ["--template", "raw", "--layers", "0,2-3", "--lr", "0.01", "--seed", "7"]
    words += ["--epochs", "2", "--batch-size", "8", "--balanced", "--positive", "fine"]
    train(run, data, tmp_path / "mood", *words)
    card = Artefact.load(tmp_path / "mood").card
    assert (card.template, card.layers, card.seed) == ("raw", (0, 2, 3), 7)
    assert card.labels == ("poor", "fine")
    assert card.training["learning_rate"] == 0.01
    assert (card.training["epochs"], card.training["batch_size"]) == (2, 8)
    assert card.training["class_weights"] == "balanced"


def test_a_refit_saves_other_weights_with_the_metrics_and_thresholds_of_before(
    run: Run, tmp_path: Path, data: Path
) -> None:
    train(run, data, tmp_path / "plain")
    train(run, data, tmp_path / "again", "--refit")
    plain, again = (Artefact.load(tmp_path / name).card for name in ("plain", "again"))
    assert (plain.metrics, plain.thresholds) == (again.metrics, again.thresholds)
    assert plain.weights_sha256 != again.weights_sha256
    assert (plain.training["refit"], again.training["refit"]) == (False, True)


def test_the_same_command_gives_the_same_weights(run: Run, tmp_path: Path, data: Path) -> None:
    for name in ("one", "two"):
        train(run, data, tmp_path / name)
    one, two = (Artefact.load(tmp_path / name).card.weights_sha256 for name in ("one", "two"))
    assert one == two


def test_the_help_names_every_probe(run: Run) -> None:
    shown = run("train", "--help").out.replace("-\n", "-").split()
    words = {word.strip(",.()") for word in shown}
    joined = "".join(shown)
    assert all(name in words or name in joined for name in AGGREGATORS)


def test_the_help_tells_the_defaults(run: Run) -> None:
    shown = " ".join(run("train", "--help").out.split())
    settings = TrainSettings()
    assert [settings.for_rows(rows, 200).epochs for rows in (799, 800)] == [5, 4]
    assert "1 to 1,000; default: 4, more below 800 rows, and twice as many" in shown
    assert f"up to {settings.for_rows(800, 200).longest}." in shown
    few, many = settings.rows_a_step(FEW_ROWS - 1), settings.rows_a_step(FEW_ROWS)
    assert f"default: {many}, or {few} below {FEW_ROWS:,} rows." in shown
    few, many = (FitSettings().held_share(num_rows) for num_rows in (FEW_ROWS - 1, FEW_ROWS))
    assert (few, many) == (1 / 5, 1 / 10)
    assert f"a tenth of --data, or a fifth below {FEW_ROWS:,} rows." in shown


def test_few_rows_are_gone_over_often_by_any_probe(run: Run, tmp_path: Path, data: Path) -> None:
    """Of 40 rows a fifth is held back: 32, which four passes would show 128 times in all."""
    train(run, data, tmp_path / "mood", "--kind", "pooling")
    training = Artefact.load(tmp_path / "mood").card.training
    assert (training["epochs"], training["keep"]) == (100, "last")


def test_a_live_pass_keeps_no_states_and_learns_the_same(
    run: Run, tmp_path: Path, data: Path
) -> None:
    live = train(run, data, tmp_path / "live", "--live")
    cached = train(run, data, tmp_path / "cached")
    for name in ("accuracy", "f1", "auprc"):
        assert live["validation"][name] == pytest.approx(cached["validation"][name], abs=1e-4)


def test_states_in_a_cache_are_read_by_the_next_training(
    run: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "states"
    train(run, data, tmp_path / "one", "--cache", cache)
    assert {path.name for path in cache.iterdir()} == {"train"}

    def fail(*_: object) -> None:
        raise AssertionError("the model ran again")

    monkeypatch.setattr("pillion.extract.fill.ShardFiller._compute", fail)
    again = train(run, data, tmp_path / "again", "--cache", cache)
    assert again["runs"] and not list(tmp_path.glob(".*"))
    other = train(run, data, tmp_path / "other", "--cache", cache, "--lr", "0.1")
    assert other["learning_rate"] == 0.1
    one, same = (Artefact.load(tmp_path / name).card.weights_sha256 for name in ("one", "again"))
    assert one == same


def test_extract_fills_the_cache_that_train_takes(
    run: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "states"
    ran = run("extract", "--data", data, "--out", cache, "--model", "fake", "--json")
    assert ran.json["rows"] == 40 and ran.json["layers"] == [0, 1, 2, 3]
    monkeypatch.delattr("pillion.extract.fill.ShardFiller._compute")
    train(run, data, tmp_path / "mood", "--cache", cache)


def test_extract_says_in_words_what_it_kept(run: Run, tmp_path: Path, data: Path) -> None:
    words = ("--layers", "1", "--template", "raw")
    ran = run("extract", "--data", data, "--out", tmp_path / "c", "--model", "fake", *words)
    assert ran.code == 0
    assert "40 rows in" in ran.out


def test_labels_are_kept_to_the_letter_but_for_spaces_around_them(run: Run, tmp_path: Path) -> None:
    labels = ["1", "01", "1,5", 'say "hi"', "[red]no[/red]", "é\u2028x", " spaced "]
    path = tmp_path / "odd.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"text {i} of {label}", label] for label in labels for i in range(4))
    train(run, path, tmp_path / "odd")
    labels[-1] = "spaced"
    assert Artefact.load(tmp_path / "odd").card.labels == tuple(sorted(labels))
    words = ("--probe", tmp_path / "odd", "--model", "fake")
    (line,) = run("predict", *words, "--text", "one of 1,5").lines
    assert set(line["probs"]) == set(labels) and line["label"] in labels
    assert run("evaluate", *words, "--data", path, "--json").json["rows"] == 28


def test_numbers_and_booleans_are_labels(run: Run, tmp_path: Path) -> None:
    rows = [{"text": f"row {i}", "label": i % 3} for i in range(30)]
    train(run, write_rows(tmp_path / "n.jsonl", rows), tmp_path / "numbers")
    assert Artefact.load(tmp_path / "numbers").card.labels == ("0", "1", "2")
    rows = [{"text": f"row {i}", "label": i % 2 == 0} for i in range(30)]
    train(run, write_rows(tmp_path / "b.jsonl", rows), tmp_path / "booleans")
    assert Artefact.load(tmp_path / "booleans").card.labels == ("False", "True")


def test_two_hundred_classes_are_trained(run: Run, tmp_path: Path) -> None:
    rows = [{"text": f"text {i} of it", "label": f"class {i % 200:03}"} for i in range(220)]
    data = write_rows(tmp_path / "many.jsonl", rows)
    train(run, data, tmp_path / "many", "--epochs", "1")
    words = ("--probe", tmp_path / "many", "--model", "fake")
    (line,) = run("predict", *words, "--text", "text 7").lines
    assert len(line["probs"]) == 200
    assert sum(line["probs"].values()) == pytest.approx(1, abs=1e-3)


def test_one_row_a_class_is_trained_and_said_to_be_its_own_validation(
    run: Run, tmp_path: Path
) -> None:
    rows = [{"text": f"only {name}", "label": name} for name in ("red", "green", "blue")]
    data = write_rows(tmp_path / "few.jsonl", rows)
    ran = run("train", "--data", data, "--model", "fake", "--out", tmp_path / "few")
    assert ran.code == 0
    assert "No row can be held out" in ran.err
    assert Artefact.load(tmp_path / "few").card.data.split == "all rows"


def test_a_multi_label_file_gives_lists_of_labels(run: Run, tmp_path: Path) -> None:
    names = ["late", "rude", "broken"]
    rows = [{"text": f"row {i}", "label": names[: i % 4]} for i in range(40)]
    data = write_rows(tmp_path / "several.jsonl", rows)
    train(run, data, tmp_path / "several")
    card = Artefact.load(tmp_path / "several").card
    assert card.task == "multilabel" and card.labels == tuple(sorted(names))
    words = ("--probe", tmp_path / "several", "--model", "fake")
    lines = run("predict", *words, "--input", data).lines
    assert all(isinstance(line["label"], list) for line in lines)
    assert all(set(line["probs"]) == set(names) for line in lines)
    metrics = run("evaluate", *words, "--data", data, "--json").json
    assert {"accuracy", "f1", "f1_micro", "auprc"} <= set(metrics)


@pytest.mark.parametrize("side", ["truncate-head", "truncate-tail"])
def test_long_texts_are_cut_where_asked(run: Run, tmp_path: Path, side: str) -> None:
    rows = [*two_classes(8), {"text": "long " * 200, "label": "fine"}]
    data = write_rows(tmp_path / "long.jsonl", rows)
    words = ("--on-too-long", side)
    train(run, data, tmp_path / "mood", *words, "--epochs", "1")
    ran = run("predict", "--probe", tmp_path / "mood", "--input", data, "--model", "fake", *words)
    assert len(ran.lines) == 9


def test_changed_copies_are_named_on_the_card(
    run: Run, refused: Refused, tmp_path: Path, data: Path
) -> None:
    train(run, data, tmp_path / "mood", "--augment", "case, padding,case", "--epochs", "1")
    assert Artefact.load(tmp_path / "mood").card.training["augment"] == ["case", "padding"]
    words = ("train", "--data", data, "--model", "fake", "--out", tmp_path / "other")
    assert "Unknown change of texts 'cases'" in refused(*words, "--augment", "cases")


def test_auto_saves_the_probe_that_it_chose_and_says_by_what(
    run: Run, tmp_path: Path, data: Path
) -> None:
    words = ("train", "--data", data, "--model", "fake", "--kind", "auto", "--epochs", "1")
    ran = run(*words, "--out", tmp_path / "mood")
    assert ran.code == 0, ran
    card = Artefact.load(tmp_path / "mood").card
    told = card.training["auto"]
    assert isinstance(told, dict) and told["chosen"] == card.probe == "concat"
    assert set(told["tried"]) == {"concat", "gate", "gates"}  # pyright: ignore[reportArgumentType]
    assert card.training["solved"] is True and "learning_rate" not in card.training
    assert "in closed form  validation:" in ran.out
    assert "chosen by auprc of 40 rows, left out in turns: concat 1.000, gate" in ran.out
    said = run("predict", "--probe", tmp_path / "mood", "--text", "good 3", "--model", "fake")
    assert said.lines[0]["label"] in {"fine", "poor"}
    assert train(run, data, tmp_path / "again", "--kind", "auto")["best_epoch"] is None
    # The card of a run whose length was not given says how long gates took.
    again = Artefact.load(tmp_path / "again").card.training
    assert (again["epochs"], again["keep"]) == (100, "last")


def test_auto_stands_alone(refused: Refused, tmp_path: Path, data: Path) -> None:
    words = ("train", "--data", data, "--model", "fake", "--out", tmp_path / "p", "--kind", "auto")
    assert "name no other beside it" in refused(*words, "--kind", "gate")
    for more in (("--heads", "2"), ("--lr", "0.1"), ("--set", "members=2")):
        assert "'auto' chooses among probes" in refused(*words, *more)
