"""`pillion push` and `pillion pull`, and probes that are named by a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Refused, Run

FAKE = ("--model", "fake")


def test_the_next_step_that_push_prints_brings_the_probe(
    run: Run, tmp_path: Path, probe: Path
) -> None:
    ran = run("push", probe, f"file://{tmp_path}/shared")
    assert ran.code == 0 and "Pushed to file://" in ran.out, ran.err
    _, _, command = ran.out.partition("Next: pillion ")
    words = [word if word != "DIR" else str(tmp_path / "mine") for word in command.split()]
    pulled = run(*words)
    assert pulled.code == 0 and "Next: pillion inspect" in pulled.out, pulled.err
    said = [
        run("predict", "--probe", place, "--text", "good work", *FAKE).out
        for place in (probe, tmp_path / "mine")
    ]
    assert said[0] == said[1]


def test_json_tells_the_hash_of_both_ways(run: Run, tmp_path: Path, probe: Path) -> None:
    url = f"file://{tmp_path}/shared"
    sent = run("push", probe, url, "--json").json
    got = run("pull", url, tmp_path / "mine", "--json").json
    assert sent["sha256"] == got["sha256"] and got["out"] == str(tmp_path / "mine")


def test_the_numbers_of_a_result_file_go_on_the_page(
    run: Run, refused: Refused, tmp_path: Path, probe: Path, data: Path
) -> None:
    result, url = tmp_path / "result.json", f"file://{tmp_path}/shared"
    assert run("evaluate", "--probe", probe, "--data", data, "--out", result, *FAKE).code == 0
    assert run("push", probe, url, "--result", result).code == 0
    page = (tmp_path / "shared" / "README.md").read_text("utf-8")
    assert "Measured on 40 rows of `rows.jsonl`" in page
    result.write_text(json.dumps({"kind": "layers"}))
    again = ("push", probe, url, "--replace", "--result")
    assert "not of this probe" in refused(*again, result)
    result.write_text("[]")
    assert "is no result file" in refused(*again, result)
    assert "cannot be read" in refused(*again, tmp_path / "none.json")


def test_verbs_take_a_probe_by_its_url(
    run: Run, refused: Refused, tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILLION_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/mood"
    assert run("push", probe, url).code == 0
    by_url = run("predict", "--probe", url, "--text", "good work", *FAKE)
    assert by_url.out == run("predict", "--probe", probe, "--text", "good work", *FAKE).out
    assert run("inspect", url, "--json").json["labels"] == ["fine", "poor"]
    sentence = refused("calibrate", "--probe", url, "--data", tmp_path / "x.csv", *FAKE)
    assert "give --out for the new one" in sentence


def test_faults_are_sentences_with_their_exit_codes(
    refused: Refused, tmp_path: Path, probe: Path
) -> None:
    nothing = f"file://{tmp_path}/none"
    assert "No shared probe lies at" in refused("pull", nothing, tmp_path / "mine")
    assert "No shared probe lies at" in refused("predict", "--probe", nothing, "--text", "x", *FAKE)
    assert "write hf://OWNER/NAME" in refused("push", probe, "hf://mood")
    assert "is not there" in refused("push", tmp_path / "none", nothing)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    assert "is no file of a probe" in refused("push", probe, f"file://{full}", "--replace")
    assert (full / "notes.txt").read_text() == "mine"
