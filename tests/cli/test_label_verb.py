"""`pillion label`, with a judge behind a real socket, and what `train` learns from it."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from program import Refused, Run, two_classes, write_rows

from pillion.probe import Artefact

FAKE = ("--model", "fake")


class Script:
    """A judge that finds a text poor if it has `awful` or `bad` in it; 500 for `broken`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[str | None] = []

    def answer(self, body: Any) -> Any:
        text = body["messages"][1]["content"]
        self.asked.append(text)
        if "broken" in text:
            return None
        chance = 0.9 if "awful" in text or "bad" in text else 0.2
        word = "yes" if chance > 0.5 else "no"
        listed = [{"token": "yes", "logprob": -0.001 if chance > 0.5 else -2.0}]
        listed += [{"token": "no", "logprob": -2.0 if chance > 0.5 else -0.001}]
        tokens = [{"token": word, "logprob": -0.001, "top_logprobs": listed}]
        return {"choices": [{"message": {"content": word}, "logprobs": {"content": tokens}}]}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.headers.append(self.headers["Authorization"])
            found = script.answer(body)
            content = json.dumps(found or {}).encode()
            self.send_response(400 if found is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    rows = [{"text": row["text"]} for row in two_classes(40)]
    return write_rows(tmp_path / "texts.jsonl", rows)


def test_a_judge_labels_rows_and_a_probe_learns_from_them(
    run: Run, tmp_path: Path, url: str, unlabelled: Path, script: Script
) -> None:
    out = tmp_path / "judged.jsonl"
    words = ("--judge", url, "--judge-model", "big", "--labels", "poor")
    ran = run("label", "--data", unlabelled, *words, "--out", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.json == {"out": str(out), "labels": ["poor"], "rows": 40, "failed": 0}
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [set(row) for row in rows] == [{"text", "soft_labels"}] * 40
    assert rows[0]["soft_labels"]["poor"] == pytest.approx(0.12, abs=0.01)
    assert sum(rows[0]["soft_labels"].values()) == pytest.approx(1)
    assert len(script.asked) == 40 and {path.name for path in tmp_path.iterdir()} == {
        "texts.jsonl",
        "judged.jsonl",
    }
    ran = run("train", "--data", out, "--out", tmp_path / "p", *FAKE, "--lr", "0.03")
    assert ran.code == 0, ran.err
    assert "labels are probabilities, in column 'soft_labels'" in ran.err
    card = Artefact.load(tmp_path / "p").card
    assert (card.task, card.labels) == ("binary", ("not poor", "poor"))
    line = run("predict", "--probe", tmp_path / "p", "--text", "awful, it broke 3", *FAKE).json
    assert line["label"] == "poor"


def test_what_has_no_answer_is_listed_and_asked_again(
    run: Run, tmp_path: Path, url: str, script: Script
) -> None:
    texts = [{"text": "good"}, {"text": " "}, {"text": "broken"}, {"text": "bad"}]
    data, out = write_rows(tmp_path / "t.jsonl", texts), tmp_path / "o.jsonl"
    words = ("label", "--data", data, "--judge", url, "--judge-model", "m", "--labels", "poor,odd")
    ran = run(*words, "--out", out)
    assert ran.code == 1 and "2 of 4 rows failed and were left out" in ran.err
    listed = [json.loads(line) for line in (tmp_path / "o.failed.jsonl").read_text().splitlines()]
    assert [one["row"] for one in listed] == [2, 3] and "status 400" in listed[1]["reason"]
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == ["good", "bad"]
    script.asked.clear()
    assert run(*words, "--out", out, "--skip-bad-rows").code == 0
    assert set(script.asked) == {"broken"}


def test_a_key_is_sent(
    run: Run,
    tmp_path: Path,
    url: str,
    unlabelled: Path,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "k1")
    words = ("--judge", url, "--judge-model", "m", "--labels", "a", "--api-key-env", "JUDGE_KEY")
    assert run("label", "--data", unlabelled, *words, "--out", tmp_path / "o.jsonl").code == 0
    assert set(script.headers) == {"Bearer k1"}


def test_a_probe_labels_conversations(run: Run, tmp_path: Path, probe: Path) -> None:
    talks = [{"messages": [{"role": "user", "content": f"awful {n}"}]} for n in range(4)]
    data, out = write_rows(tmp_path / "t.jsonl", talks), tmp_path / "o.jsonl"
    ran = run("label", "--data", data, "--judge", probe, "--out", out, *FAKE)
    assert ran.code == 0 and "4 rows with fine, poor in" in ran.out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["messages"] == talks[0]["messages"]
    assert list(rows[0]["soft_labels"]) == ["fine", "poor"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--judge", "http://h/v1", "--labels", "a"), "give --judge-model NAME"),
        (("--judge", "http://h/v1", "--judge-model", "m"), "give --labels A,B"),
        (("--judge", "http:///v1", "--judge-model", "m", "--labels", "a"), "no URL of a server"),
        (
            ("--judge", "http://h/v1", "--judge-model", "m", "--labels", "a", "--question", "eh"),
            "has no {label} in it",
        ),
        (("--judge", "nowhere", "--judge-model", "m"), "is no server; leave out"),
        (("--judge", "./nowhere"), "could not be loaded"),
        (("--judge", "./nowhere", "--model", "fake"), "could not be loaded"),
        (
            ("--judge", "http://h/v1", "--model", "m", "--judge-model", "m", "--labels", "a"),
            "runs its own model; leave out --model",
        ),
    ],
)
def test_what_is_no_judge_is_said_in_a_sentence(
    refused: Refused, tmp_path: Path, unlabelled: Path, words: tuple[str, ...], sentence: str
) -> None:
    given = ("label", "--data", unlabelled, "--out", tmp_path / "o.jsonl", *words)
    assert sentence in refused(*given)


def test_a_server_that_is_not_there_is_said(
    refused: Refused, tmp_path: Path, unlabelled: Path
) -> None:
    words = ("--judge", "http://127.0.0.1:9/v1", "--judge-model", "m", "--labels", "a")
    given = ("label", "--data", unlabelled, "--out", tmp_path / "o.jsonl", *words)
    assert "did not answer (ConnectError)" in refused(*given, code=1)
