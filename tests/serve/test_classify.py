"""`/v1/classify` and `/v1/moderations`: verdicts without an answer."""

from __future__ import annotations

from typing import Any

import pytest
from client import application, refusal, settings
from scripted import ScriptedEngine
from starlette.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.runtime import LanguageModel, PlainEngine
from pillion.serve import Limits, make_policies
from tiny_models import make_artefact

CLASSIFY, MODERATE = "/v1/classify", "/v1/moderations"
TEXTS = ["A short one.", "b", "A much longer one, of many more words."]


def test_every_text_gets_the_verdicts_of_every_probe(client: TestClient) -> None:
    backend = FakeBackend()
    probe = make_artefact("safe", backend.identity)
    body = client.post(CLASSIFY, json={"input": TEXTS}).json()
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    assert body["usage"]["prompt_tokens"] == sum(map(len, TEXTS))
    wanted = LanguageModel(backend).score(TEXTS, [probe])
    for entry, verdicts in zip(body["data"], wanted, strict=True):
        assert list(entry["verdicts"]) == ["safe", "topic", "tags"]
        got = entry["verdicts"]["safe"]
        assert got["probs"] == pytest.approx(dict(verdicts["safe"].probs), abs=2e-6)
        assert got["decision"] == "allow"


def test_probes_and_wrapping_can_be_chosen(client: TestClient) -> None:
    def ask(**facts: Any) -> Any:
        return client.post(CLASSIFY, json={"input": "hello", **facts}).json()["data"][0]["verdicts"]

    assert list(ask(probes=["tags", "safe"])) == ["tags", "safe"]
    assert ask(template="raw") == ask() != ask(template="chat")


def test_probes_of_different_templates_are_read_as_they_were_trained() -> None:
    backend = FakeBackend()
    raw = make_artefact("r", backend.identity)
    chat = make_artefact("c", backend.identity, template="chat")
    with application(PlainEngine(backend, [raw, chat])) as client:
        got = client.post(CLASSIFY, json={"input": "hello"}).json()["data"][0]["verdicts"]
    lm = LanguageModel(backend)
    for probe in (raw, chat):
        (wanted,) = lm.score(["hello"], [probe])
        probs = dict(wanted[probe.name].probs)
        assert got[probe.name]["probs"] == pytest.approx(probs, abs=2e-6)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": []}, 400, "one or more strings"),
        ({"input": [1]}, 400, "one or more strings"),
        ({"input": ["a", ""]}, 400, "Text 2 has 0 tokens"),
        ({"input": "x" * 600}, 400, "600 tokens"),
        ({"input": "a", "probes": []}, 400, "at least 1"),
        ({"input": "a", "probes": ["nobody"]}, 404, "known: safe, topic, tags"),
        ({"input": "a", "template": "x"}, 400, "'raw' or 'chat'"),
        ({"input": "a", "model": "x"}, 404, "not served"),
        ({"text": "a"}, 400, "input"),
    ],
)
def test_what_cannot_be_classified_is_refused(
    client: TestClient, body: Any, status: int, message: str
) -> None:
    assert message in refusal(client, CLASSIFY, body, status)["message"]


def test_many_texts_have_a_limit() -> None:
    with application(ScriptedEngine(), settings(limits=Limits(texts=2))) as client:
        assert "takes 2" in refusal(client, CLASSIFY, {"input": ["a"] * 3})["message"]
    with application(PlainEngine(FakeBackend())) as client:
        for path in (CLASSIFY, MODERATE):
            assert "No probe is loaded" in refusal(client, path, {"input": "a"})["message"]


@pytest.mark.parametrize(("score", "flagged"), [(0.9, True), (0.2, False)])
def test_a_moderation_flags_the_positive_label(score: float, flagged: bool) -> None:
    with application(ScriptedEngine(prompt_score=score)) as client:
        body = client.post(MODERATE, json={"input": ["a", "b"]}).json()
    assert body["model"] == "p" and len(body["results"]) == 2
    (one, _) = body["results"]
    assert one["flagged"] is flagged is one["categories"]["yes"]
    assert one["category_scores"]["yes"] == score and not one["categories"]["no"]
    # What no probe judges is there for clients that read it by name, and says so.
    assert one["category_scores"]["violence"] == 0
    assert (
        one["category_applied_input_types"] | {"yes": ["text"], "violence": []}
        == (one["category_applied_input_types"])
    )


def test_a_moderator_is_chosen_by_name(client: TestClient) -> None:
    tags = client.post(MODERATE, json={"input": "a", "model": "tags"}).json()
    assert tags["model"] == "tags" and {"a", "b", "c", "d"} <= set(tags["results"][0]["categories"])
    any_name = client.post(MODERATE, json={"input": "a", "model": "omni-moderation-latest"})
    assert any_name.json()["model"] == "safe"
    assert refusal(client, MODERATE, {"input": "a", "model": "x"}, 404)["param"] == "model"
    error = refusal(client, MODERATE, {"input": "a", "model": "topic"})
    assert "no policy says which are harmful" in error["message"]


def test_policies_say_which_labels_are_flagged() -> None:
    backend = FakeBackend()
    topic = make_artefact("topic", backend.identity, task="multiclass")
    listed = [
        {"probe": "topic", "action": "annotate", "label": label, "threshold": line}
        for label, line in (("a", 0.0), ("b", 1.0))
    ]
    chosen = settings(policies=make_policies({"policies": listed}))
    with application(PlainEngine(backend, [topic]), chosen) as client:
        (result,) = client.post(MODERATE, json={"input": "hi"}).json()["results"]
        entry = client.post(CLASSIFY, json={"input": "hi"}).json()["data"][0]
    assert result["flagged"] and result["categories"]["a"]
    assert not result["categories"]["b"] and not result["categories"]["c"]
    assert entry["verdicts"]["topic"]["decision"] == "annotate"
