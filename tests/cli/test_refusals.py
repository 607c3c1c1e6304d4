"""Input that cannot be used: one sentence, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from program import Refused, Run, two_classes, write_rows

from pillion.api import Probe
from pillion.backends.fake import FakeBackend
from pillion.runtime import LanguageModel

FAKE = ("--model", "fake")


def rows(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    return [*two_classes(8), *changed]


FILES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    # what: file name, content, words of the message
    "empty": ("x.jsonl", b"", ("is empty",)),
    "blank": ("x.csv", b" \n\n", ("is empty",)),
    "no rows": ("x.csv", b"text,label\n", ("no rows",)),
    "empty text": ("x.jsonl", b'{"text": " ", "label": "a"}\n', ("empty", "row 1")),
    "null label": ("x.jsonl", b'{"text": "x", "label": null}\n', ("label", "row 1")),
    "missing column": ("x.csv", b"txt,label\na,b\n", ("no column 'text'", "'txt'")),
    "one class": (
        "x.csv",
        b"text,label\na,b\nc,b\n",
        ("x.csv", "only 'b'", "at least two"),
    ),
    "not UTF-8": ("x.csv", b"text,label\n\xff\xfe,b\n", ("UTF-8",)),
    "UTF-16 that does not say so": (
        "x.jsonl",
        '{"text": "a", "label": "b"}\n'.encode("utf-16-le"),
        ("not valid JSON at line 1",),
    ),
    "no JSON": ("x.jsonl", b"hello\n", ("not valid JSON at line 1",)),
    "no object": ("x.jsonl", b"[1]\n", ("no JSON object at line 1",)),
    "no Parquet": ("x.parquet", b"hello", ("Parquet",)),
    "unknown suffix": ("x.xlsx", b"hello", (".xlsx", ".csv")),
    "open quote": ("x.csv", b'text,label\n"a,b\n', ("not valid CSV",)),
    "long row": ("x.csv", b"text,label\na,b,c\n", ("line 2",)),
    "text as number": ("x.jsonl", b'{"text": 3, "label": "a"}\n', ("not a string",)),
    "mixed labels": (
        "x.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n',
        ("mixes kinds",),
    ),
    "nested labels": ("x.jsonl", b'{"text": "a", "label": {"b": 1}}\n', ("label",)),
    "surrogate": ("x.jsonl", b'{"text": "\\ud800", "label": "a"}\n', ("surrogate",)),
}


@pytest.mark.parametrize("what", FILES)
def test_a_data_file_that_cannot_be_used_is_refused(
    refused: Refused, tmp_path: Path, what: str
) -> None:
    name, content, words = FILES[what]
    (tmp_path / name).write_bytes(content)
    message = refused("train", "--data", tmp_path / name, *FAKE, "--out", tmp_path / "p")
    assert all(word in message for word in words), message
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_data_file_that_is_not_there_is_named(refused: Refused, tmp_path: Path) -> None:
    for verb in (("train", "--out", tmp_path / "p"), ("extract", "--out", tmp_path / "c")):
        assert "no.csv" in refused(*verb, "--data", tmp_path / "no.csv", *FAKE)
    (tmp_path / "folder.csv").mkdir()
    words = ("--data", tmp_path / "folder.csv", "--out", tmp_path / "p")
    assert "folder.csv" in refused("train", *words, *FAKE)


def test_a_text_beyond_the_window_is_named_by_file_and_row(
    refused: Refused, tmp_path: Path, data: Path
) -> None:
    long = write_rows(tmp_path / "long.jsonl", rows({"text": "x" * 600, "label": "poor"}))
    out = tmp_path / "p"
    message = refused("train", "--data", long, *FAKE, "--out", out)
    for word in ("long.jsonl", "Row 9", "602", "512", "truncate-head"):
        assert word in message
    message = refused("train", "--data", data, "--validation", long, *FAKE, "--out", out)
    assert "long.jsonl" in message and "Row 9" in message
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "long.jsonl"}


def test_validation_rows_of_an_unknown_class_are_refused(
    refused: Refused, tmp_path: Path, data: Path
) -> None:
    other = write_rows(tmp_path / "other.jsonl", rows({"text": "x", "label": "odd"}))
    out = tmp_path / "p"
    message = refused("train", "--data", data, "--validation", other, *FAKE, "--out", out)
    assert "other.jsonl" in message and "'odd'" in message and "row 9" in message


def test_evaluated_rows_of_an_unknown_class_are_refused(
    refused: Refused, tmp_path: Path, probe: Path
) -> None:
    other = write_rows(tmp_path / "other.jsonl", rows({"text": "x", "label": "odd"}))
    message = refused("evaluate", "--probe", probe, "--data", other, *FAKE)
    assert "'odd'" in message and "'fine'" in message and "row 9" in message


def test_lists_of_labels_are_refused_by_a_probe_of_one_label(
    refused: Refused, tmp_path: Path, probe: Path
) -> None:
    data = write_rows(tmp_path / "x.jsonl", [{"text": "x", "label": ["fine", "poor"]}])
    assert "row 1" in refused("evaluate", "--probe", probe, "--data", data, *FAKE)


OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "kind": (("--kind", "gatte"), ("'gatte'", "Did you mean 'gate'")),
    "heads of no heads": (("--kind", "pooling", "--heads", "2"), ("pooling", "num_heads")),
    "no heads": (("--heads", "0"), ("num_heads",)),
    "learning rate": (("--lr", "-1"), ("--lr", "-1.0", "greater than 0")),
    "learning rate, NaN": (("--lr", "nan"), ("--lr",)),
    "epochs": (("--epochs", "1001"), ("--epochs is 1001",)),
    "batch size": (("--batch-size", "0"), ("--batch-size is 0",)),
    "positive": (("--positive", "fin"), ("'fin'", "Did you mean 'fine'")),
    "layer": (("--layers", "0-4"), ("'0-4'", "0 to 3")),
    "many layers": (("--layers", "0-99999999999999"), ("--layers",)),
    "layers": (("--layers", "first"), ("'first'", "0-15,30")),
    "no layers": (("--layers", ""), ("--layers",)),
    "layers backwards": (("--layers", "3-1"), ("low to high",)),
    "superscript": (("--layers", "²"), ("--layers",)),
    "live cache": (("--live", "--cache", "c"), ("--live", "--cache")),
    "cache in the probe": (("--cache", "PROBE"), ("--cache", "lies in --out")),
    "cache below the probe": (("--cache", "PROBE/states"), ("--cache", "lies in --out")),
    "heads twice": (("--heads", "2", "--set", "num_heads=4"), ("--heads and --set num_heads",)),
    "setting twice": (("--set", "num_heads=4", "--set", "num_heads=8"), ("num_heads twice",)),
    "model": (("--model", "/no/such/model"), ("/no/such/model", "GGUF file")),
    "device": (("--model", "embedded", "--device", "abacus"), ("abacus",)),
}


@pytest.mark.parametrize("what", OPTIONS)
def test_an_option_that_cannot_be_used_is_refused(
    refused: Refused, tmp_path: Path, data: Path, what: str
) -> None:
    words, expected = OPTIONS[what]
    words = tuple(word.replace("PROBE", str(tmp_path / "p")) for word in words)
    model = () if "--model" in words else FAKE
    message = refused("train", "--data", data, "--out", tmp_path / "p", *model, *words)
    assert all(word in message for word in expected), message
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--seed", "one"),
        ("train", "--seed", "-1"),
        ("train", "--seed", "9" * 30),
        ("train", "--epochs", "1.5"),
        ("train", "--template", "fancy"),
        ("train", "--on-too-long", "ignore"),
        ("train", "--dtype", "int3"),
        ("train", "--colour", "red"),
        ("train",),
        ("predict",),
        ("generate", "hi", "--max-tokens", "0"),
        ("generate", "hi", "--temperature", "-1"),
        ("fly",),
    ],
)
def test_words_that_are_no_command_line_are_usage_errors(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words)
    assert ran.code == 2 and ran.out == ""
    assert "Usage: pillion" in ran.err and "Error:" in ran.err
    assert "Traceback" not in ran.err


# --- where things are written


def test_a_place_that_cannot_hold_a_probe_is_refused_before_training(
    refused: Refused, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("pillion.runtime.LanguageModel.load", fail)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    command = ("train", "--data", data, *FAKE, "--out")
    assert "other files, not a probe" in refused(*command, tmp_path / "mine")
    assert "is a file" in refused(*command, data)
    assert "inside" in refused(*command, data / "deeper" / "p")
    assert "not a probe" in refused(*command, "/")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert "not a probe" in refused(*command, tmp_path / "link")
    assert "is a file" in refused(*command, tmp_path / "p", "--cache", data)
    assert "--out" in refused("extract", "--data", data, *FAKE, "--out", data / "c")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "mine", "link"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(
    refused: Refused, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    command = ("train", "--data", data, *FAKE, "--out")
    assert "cannot be written" in refused(*command, tmp_path / "locked" / "p")


def test_lines_are_refused_a_file_that_cannot_be_written(
    refused: Refused, tmp_path: Path, probe: Path, data: Path
) -> None:
    command = ("predict", "--probe", probe, "--text", "x", *FAKE, "--out")
    assert "not there" in refused(*command, tmp_path / "no" / "lines.jsonl")
    assert "is a folder" in refused(*command, tmp_path)
    assert "inside" in refused(*command, data / "lines.jsonl")


@pytest.mark.parametrize(
    "words",
    [
        "predict --probe PROBE --input DATA --out DATA",
        "evaluate --probe PROBE --data DATA --out DATA",
        "label --judge PROBE --data DATA --out DATA",
        "layers --data DATA --out DATA",
        "layers --data DATA --plot DATA",
        "report --probe PROBE --data DATA --out DATA",
        "report DATA --out DATA",
        "explain --probe PROBE --data DATA --png DATA",
        "explain --probe PROBE --messages DATA --html DATA",
        "vllm fake --probe PROBE --policy DATA --out DATA",
        "bench real --train DATA --test DATA --out DATA",
        "bench accuracy --suite DATA --out NEW --page DATA",
    ],
)
def test_what_is_read_is_never_written_over(
    refused: Refused, tmp_path: Path, data: Path, probe: Path, words: str
) -> None:
    """Rows were replaced by their own verdicts, and the exit code was 0."""
    mine = data.rename(tmp_path / "mine.yaml")
    named = {"DATA": str(mine), "PROBE": str(probe), "NEW": str(tmp_path / "new")}
    before = mine.read_bytes()
    sentence = refused(*(named.get(word, word) for word in words.split()))
    assert f"{mine} is a file that this command reads" in sentence
    assert mine.read_bytes() == before


def test_a_cache_of_other_rows_is_refused(
    run: Run, refused: Refused, tmp_path: Path, data: Path
) -> None:
    cache = tmp_path / "states"
    command = ("train", *FAKE, "--cache", cache, "--out", tmp_path / "p", "--data")
    assert run(*command, data).code == 0
    other = write_rows(tmp_path / "other.jsonl", two_classes(24))
    message = refused(*command, other, code=1)
    assert "Another cache lies in" in message and "another folder" in message
    message = refused(*command, data, "--layers", "1", code=1)
    assert "layers" in message
    assert run(*command, data).code == 0


def test_a_disk_without_room_is_said_before_anything_is_written(
    refused: Refused, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))(10**9, 10**9 - 10, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refused("train", "--data", data, *FAKE, "--out", tmp_path / "p", code=1)
    assert "free" in message and "live" in message
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


# --- texts and states


@pytest.mark.parametrize("verb", ["predict", "generate"])
def test_an_empty_text_is_refused(refused: Refused, probe: Path, verb: str) -> None:
    words = ("--text", "") if verb == "predict" else (" \n",)
    assert "empty" in refused(verb, *words, "--probe", probe, *FAKE)


@pytest.mark.parametrize("verb", ["predict", "generate"])
def test_bytes_that_are_no_text_are_refused(refused: Refused, probe: Path, verb: str) -> None:
    words = ("--text", "caf\udce9") if verb == "predict" else ("caf\udce9",)
    assert "not valid UTF-8 at character 4" in refused(verb, *words, "--probe", probe, *FAKE)


def test_a_long_text_is_refused_unless_it_may_be_cut(
    run: Run, refused: Refused, probe: Path
) -> None:
    words = ("predict", "--text", "x" * 600, "--probe", probe, *FAKE)
    assert "Row 1" in refused(*words)
    assert run(*words, "--on-too-long", "truncate-head").code == 0


def test_an_answer_longer_than_the_window_is_refused(refused: Refused) -> None:
    message = refused("generate", "hi", "--max-tokens", "512", *FAKE)
    assert "--max-tokens" in message and "512" in message
    assert "top_p" in refused("generate", "hi", "--top-p", "2", *FAKE)


def test_states_that_are_not_finite_stop_the_run_and_leave_nothing(
    refused: Refused, tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FakeBackend.__init__

    def broken(self: FakeBackend) -> None:
        make(self)
        self.embeddings[ord("~")] = torch.nan

    monkeypatch.setattr(FakeBackend, "__init__", broken)
    data = write_rows(tmp_path / "x.jsonl", rows({"text": "one ~", "label": "poor"}))
    for words in ((), ("--live",)):
        message = refused("train", "--data", data, *FAKE, "--out", tmp_path / "p", *words, code=1)
        assert "not finite" in message and "layer 0" in message
    message = refused("predict", "--probe", probe, "--input", data, *FAKE, code=1)
    assert "not finite" in message and "layer 0" in message
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


# --- probes that cannot be read

Spoil = Callable[[Path], object]


def spoil_card(**changed: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | changed))

    return spoil


SPOILT: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "no card": (lambda folder: (folder / "card.json").unlink(), ("no card.json",)),
    "no weights": (lambda folder: (folder / "probe.safetensors").unlink(), ("probe.safetensors",)),
    "cut weights": (
        lambda folder: os.truncate(folder / "probe.safetensors", 50),
        ("damaged", "probe.safetensors"),
    ),
    "empty card": (lambda folder: (folder / "card.json").write_text(""), ("JSON",)),
    "card in bytes": (lambda folder: (folder / "card.json").write_bytes(b"\xff\0"), ("JSON",)),
    "newer format": (spoil_card(format=3), ("format 3", "upgrade")),
    "unknown key": (spoil_card(colour="red"), ("'colour'",)),
    "other labels": (spoil_card(labels=["a", "b", "c"]), ("labels",)),
    "other layers": (spoil_card(layers=[0]), ("weights", "layers")),
    "layers beyond": (spoil_card(layers=[0, 1, 2, 9]), ("9", "0 to 3")),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("verb", ["predict", "inspect"])
def test_a_probe_that_cannot_be_read_is_refused(
    refused: Refused, tmp_path: Path, probe: Path, what: str, verb: str
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(probe, folder)
    spoil, words = SPOILT[what]
    spoil(folder)
    command = ("predict", "--text", "x", *FAKE, "--probe") if verb == "predict" else ("inspect",)
    message = refused(*command, folder)
    assert all(word in message for word in words), message


def test_a_probe_that_is_not_there_is_named(refused: Refused, tmp_path: Path, data: Path) -> None:
    assert "nowhere" in refused("inspect", tmp_path / "nowhere")
    assert "is a file" in refused("inspect", data)
    assert "card.json" in refused("inspect", tmp_path)


def test_two_probes_of_one_name_are_refused(refused: Refused, probe: Path) -> None:
    words = ("--probe", probe, "--probe", probe, "--text", "x")
    assert "names must differ" in refused("predict", *words, *FAKE)


def trained_on(backend: FakeBackend, folder: Path) -> Path:
    made = two_classes(12)
    texts, labels = [row["text"] for row in made], [row["label"] for row in made]
    Probe(model=LanguageModel(backend)).fit(texts, labels).save(folder)
    return folder


def test_a_probe_of_another_model_says_what_differs(
    run: Run, refused: Refused, tmp_path: Path, data: Path
) -> None:
    other = trained_on(FakeBackend(seed=1), tmp_path / "other")
    for command in (("predict", "--text", "x"), ("evaluate", "--data", data), ("generate", "x")):
        message = refused(*command, "--probe", other, *FAKE)
        assert "another model" in message and "fake-weights-1" in message
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = run("predict", "--text", "x", "--probe", other, *FAKE, "--allow-mismatch")
    assert ran.code == 0 and len(ran.lines) == 1
    (warning,) = ran.err.splitlines()
    assert warning.startswith("pillion: warning: Probe 'other'") and "may be wrong" in warning


def test_a_probe_of_another_width_is_refused_even_where_mismatch_is_allowed(
    refused: Refused, tmp_path: Path
) -> None:
    wide = trained_on(FakeBackend(dim=24), tmp_path / "wide")
    words = ("predict", "--text", "x", "--probe", wide, *FAKE, "--allow-mismatch")
    assert "24 wide, this model's 16" in refused(*words)


def test_examples_want_a_file_that_keeps_them(refused: Refused, probe: Path, data: Path) -> None:
    """They were passed over."""
    words = ("evaluate", "--probe", probe, "--data", data, *FAKE, "--examples", "3")
    assert "--examples are texts that --out keeps; give --out" in refused(*words)
