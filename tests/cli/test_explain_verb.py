"""`pillion explain`: one text, or a labelled file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from program import Refused, Run


def test_it_shows_the_sum_the_text_and_the_tokens_that_added_most(run: Run, probe: Path) -> None:
    ran = run("explain", "--probe", probe, "--model", "fake", "--text", "good day")

    assert ran.code == 0, ran
    assert "= tokens" in ran.out and "and bias" in ran.out and "(exact)" in ran.out
    assert "good day" in ran.out and "layers 0 to 3" in ran.out and "most at layer" in ran.out


def test_json_holds_every_contribution_and_files_are_written(
    run: Run, probe: Path, tmp_path: Path
) -> None:
    png, html = tmp_path / "why.png", tmp_path / "why.html"
    words = ["explain", "--probe", probe, "--model", "fake", "--text", "good <day>"]
    ran = run(*words, "--json", "--png", png, "--html", html)

    assert ran.code == 0, ran
    found = ran.json
    total = sum(map(sum, found["contributions"]["poor"])) + found["rest"]["poor"]
    assert total == pytest.approx(found["logits"]["poor"], abs=1e-3)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<day>" not in html.read_text() and '"\\u003c"' in html.read_text()


def test_a_labelled_file_gives_profiles_of_right_and_wrong_items(
    run: Run, probe: Path, data: Path, tmp_path: Path
) -> None:
    words = ["explain", "--probe", probe, "--model", "fake", "--data", data]
    shown, found = run(*words), run(*words, "--json", "--png", tmp_path / "p.png").json

    assert "fine" in shown.out and "correct" in shown.out
    counts = [one[k]["rows"] for one in found["classes"].values() for k in ("correct", "wrong")]
    assert sum(counts) == 40
    assert (tmp_path / "p.png").exists()


def test_what_does_not_go_together_is_refused(refused: Refused, probe: Path, data: Path) -> None:
    """Of labelled rows, --template was passed over: they are wrapped as the probe was trained."""
    words = ["explain", "--probe", probe, "--model", "fake"]
    assert "either --text or --data" in refused(*words)
    assert "either --text or --data" in refused(*words, "--text", "a", "--data", data)
    assert "go with --text" in refused(*words, "--data", data, "--html", "x.html")
    assert "go with --text" in refused(*words, "--data", data, "--template", "raw")
    assert "Unknown label 'good'" in refused(*words, "--text", "a", "--label", "good")


def test_a_conversation_is_explained_turn_by_turn(run: Run, probe: Path, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "an awful mess"},
        {"role": "assistant", "content": "Oh."},
    ]
    file.write_text(json.dumps(talk))
    words = ("--probe", probe, "--model", "fake", "--messages", file, "--text", "a lovely day")
    found = run("explain", *words, "--json").json
    assert [s["role"] for s in found["segments"]] == ["system", "user", "assistant", "user"]
    last = found["segments"][-1]
    (each,) = found["contributions"].values()
    added = [abs(sum(layer[t] for layer in each)) for t in range(len(found["tokens"]))]
    assert all((a > 0) <= (last["begin"] <= t < last["end"]) for t, a in enumerate(added))
    assert sum(a > 0 for a in added) > 1
    shown = run("explain", *words).out
    assert [line.split()[0] for line in shown.splitlines()[5:9]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_the_templates_tokens_are_left_out_unless_asked_for(
    run: Run, data: Path, tmp_path: Path
) -> None:
    """A reader of one text met `<|im_start|>system` and the template's own system prompt first."""
    out, html = tmp_path / "all", tmp_path / "why.html"
    words = ["--data", data, "--model", "fake", "--scope", "all"]
    assert run("train", *words, "--lr", "0.03", "--out", out).code == 0
    words = ["explain", "--probe", out, "--model", "fake", "--text", "good", "--html", html]
    found = run(*words, "--json").json
    (written,) = (s for s in found["segments"] if s["kind"] == "content")
    assert written["end"] - written["begin"] < len(found["tokens"])

    def places() -> list[int]:
        page = html.read_text().split('id="data">')[1].split("</script>")[0]
        return [place for part in json.loads(page)["parts"] for place in part["places"]]

    assert places() == list(range(written["begin"], written["end"]))
    plain = run(*words).out
    assert "the template's tokens added" in plain
    everything = run(*words, "--template-tokens").out
    assert "the template's tokens added" not in everything
    assert places() == list(range(len(found["tokens"])))
    assert "go with --text" in run(*words[:5], "--data", data, "--template-tokens").err


def test_eighty_columns_hold(run: Run, probe: Path) -> None:
    shown = run("explain", "--probe", probe, "--model", "fake", "--text", "good day").out
    assert max(map(len, shown.splitlines())) <= 80
