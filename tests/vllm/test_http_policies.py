"""`vllm serve` with a file of policies: it refuses and stops as pillion's own server does."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch
from riding import ProbedModel, random_prompts
from serving import serving

pytestmark = pytest.mark.vllm
NUM_TOKENS = 24
REFUSAL = "That is not for me to say."


@dataclass
class Served:
    """A server, and what its policies will do.

    Attributes:
        address: of it.
        blocked: a prompt that it refuses.
        stopped: one whose answer it ends.
        free: one that it answers whole.
        answers: of the model alone, to each.
        crossing: tokens of the second answer after which the line is crossed.
    """

    address: str
    blocked: list[int]
    stopped: list[int]
    free: list[int]
    answers: dict[str, list[int]]
    crossing: int

    def ask(self, name: str, **others: Any) -> dict[str, Any]:
        """The body of an answer."""
        return self.post("/v1/completions", self.body(name) | others).raise_for_status().json()

    def body(self, name: str) -> dict[str, Any]:
        asked = {"model": "tiny", "prompt": getattr(self, name), "max_tokens": NUM_TOKENS}
        return asked | {"temperature": 0, "ignore_eos": True, "return_token_ids": True}

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.address + path, json=body, timeout=300)

    def events(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Those of a stream, without its end."""
        with httpx.stream("POST", self.address + path, json=body, timeout=300) as stream:
            lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
        return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


@torch.no_grad()
def answer(tiny: ProbedModel, prompt: list[int]) -> list[int]:
    """The likeliest tokens, by transformers."""
    ids = list(prompt)
    for _ in range(NUM_TOKENS):
        ids.append(int(tiny.backend.model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def yes(tiny: ProbedModel, ids: list[int], begin: int, end: int) -> float:
    """What the binary probe says of a part of a text."""
    return float(torch.sigmoid(tiny.logits(ids, begin, end)["binary"][0]))


@pytest.fixture(scope="module")
def served(tiny: ProbedModel, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """One probe decides on both: the lines lie between what it says of three prompts."""
    prompts = [p["prompt_token_ids"] for p in random_prompts([(0, n) for n in range(20, 32)])]
    prompts.sort(key=lambda ids: yes(tiny, ids, 0, len(ids)))
    blocked, *others = reversed(prompts)
    first, second = (yes(tiny, ids, 0, len(ids)) for ids in (blocked, others[0]))
    answers = [answer(tiny, ids) for ids in others]
    runs = [
        [yes(tiny, ids + said, len(ids), len(ids) + n) for n in range(1, NUM_TOKENS)]
        for ids, said in zip(others, answers, strict=True)
    ]
    # The answer whose score rises highest after some tokens, and one that stays below its line.
    places = sorted(range(len(others)), key=lambda i: max(runs[i][4:]) - max(runs[i][:4]))
    stopped = places[-1]
    line = (max(runs[stopped][:4]) + max(runs[stopped][4:])) / 2
    free = min(range(len(others)), key=lambda i: max(runs[i]))
    assert max(runs[free]) < line - 1e-3 and first - second > 1e-3
    crossing = next(n for n, score in enumerate(runs[stopped], 1) if score >= line)
    block = {"probe": "binary", "action": "block", "threshold": (first + second) / 2}
    stop = {"probe": "binary", "action": "stop", "threshold": line, "fail": "open"}
    folder = tmp_path_factory.mktemp("policies")
    policies = [block | {"fail": "closed", "refusal": REFUSAL}, stop]
    (folder / "policy.json").write_text(json.dumps({"policies": policies}))
    told = dict(zip(("stopped", "free"), (answers[stopped], answers[free]), strict=True))
    with serving(tiny, folder, folder / "policy.json") as address:
        yield Served(address, blocked, others[stopped], others[free], told, crossing)


def test_a_prompt_is_refused_in_the_words_of_the_policy(served: Served) -> None:
    body = served.ask("blocked")
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == (REFUSAL, "content_filter")
    assert choice["token_ids"] == [] and body["usage"]["completion_tokens"] == 0
    assert body["verdicts"]["prompt"]["binary"]["decision"] == "block"
    assert body["verdicts"]["prompt"]["mean"]["decision"] == "allow"
    assert body["verdicts"]["response"] == {} and choice["stop_reason"] is None


def test_an_answer_ends_before_the_token_that_crosses_the_line(served: Served) -> None:
    body = served.ask("stopped")
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["token_ids"] == served.answers["stopped"][: served.crossing - 1]
    assert body["verdicts"]["response"]["binary"]["decision"] == "stop"
    assert body["verdicts"]["response_tokens"] == served.crossing


def test_an_answer_that_crosses_no_line_is_whole(served: Served) -> None:
    body = served.ask("free")
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["token_ids"] == served.answers["free"]
    parts = [body["verdicts"][part]["binary"]["decision"] for part in ("prompt", "response")]
    assert parts == ["allow", "allow"]


@pytest.mark.parametrize("name", ["blocked", "stopped", "free"])
def test_a_stream_says_what_a_whole_answer_says(served: Served, name: str) -> None:
    whole = served.ask(name)
    events = served.events("/v1/completions", served.body(name) | {"stream": True})
    choices = [choice for event in events for choice in event["choices"]]
    (expected,) = whole["choices"]
    assert "".join(choice["text"] for choice in choices) == expected["text"]
    ids = [token for choice in choices for token in choice.get("token_ids") or ()]
    assert ids == expected["token_ids"]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert reasons == [expected["finish_reason"]]
    assert events[-1]["verdicts"] == whole["verdicts"]


def test_every_answer_to_a_prompt_is_refused_or_stopped_by_itself(served: Served) -> None:
    refused = served.ask("blocked", n=3, temperature=1.0)
    assert [choice["text"] for choice in refused["choices"]] == [REFUSAL] * 3
    several = served.ask("stopped", n=2, temperature=1.0, top_k=1)
    cut = served.answers["stopped"][: served.crossing - 1]
    assert [choice["token_ids"] for choice in several["choices"]] == [cut, cut]
    both = served.ask("free", prompt=[served.blocked, served.free])
    first, second = both["choices"]
    assert first["text"] == REFUSAL and second["token_ids"] == served.answers["free"]


def test_an_answer_that_was_ended_runs_no_further(served: Served) -> None:
    for name in ("blocked", "stopped"):
        served.ask(name, max_tokens=700)
    for _ in range(60):  # vLLM counts at its next step
        served.ask("free", max_tokens=1)
        numbers = httpx.get(served.address + "/metrics").text
        running = [n for n in numbers.splitlines() if n.startswith("vllm:num_requests_running")]
        if running and all(line.endswith(" 0.0") for line in running):
            break
        time.sleep(0.5)
    else:
        raise AssertionError(running)
    made = [line for line in numbers.splitlines() if line.startswith("vllm:generation_tokens_tot")]
    assert float(made[0].rsplit(" ", 1)[1]) < 500
    assert 'pillion_policy_actions_total{action="stop",dry_run="false",probe="binary"}' in numbers
    assert 'pillion_score_bucket{label="yes",le="0.5",part="prompt",probe="binary"}' in numbers
    (spent,) = (n for n in numbers.splitlines() if n.startswith("pillion_probe_seconds_total"))
    assert float(spent.split()[1]) > 0


def test_beams_are_refused_since_no_policy_can_follow_them(served: Served) -> None:
    body = served.body("free") | {"use_beam_search": True, "n": 2}
    answer = served.post("/v1/completions", body)
    assert answer.status_code == 400
    assert "no policy can be followed there; ask without" in answer.json()["error"]["message"]
