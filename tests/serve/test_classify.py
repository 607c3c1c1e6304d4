"""`/v1/classify` and `/v1/moderations`: verdicts without an answer."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from client import application, listening, refusal, settings
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


def test_a_text_that_does_not_fit_is_named_with_what_to_do(client: TestClient) -> None:
    said = refusal(client, CLASSIFY, {"input": ["a", "x" * 600], "template": "raw"})
    assert said["code"] == "context_length_exceeded" and said["param"] == "input"
    assert said["message"] == "Text 2 has 600 tokens, this model takes 1 to 512; shorten it."
    empty = refusal(client, CLASSIFY, {"input": "", "template": "raw"})
    assert empty["message"].endswith("this model takes 1 to 512; fill it.")


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
    prefixed = client.post(MODERATE, json={"input": "a", "model": "openai/tags"}).json()
    assert prefixed == tags | {"id": prefixed["id"]}  # as LiteLLM's blocking call names it
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


def test_vllms_route_has_vllms_shape_over_a_socket() -> None:
    """What clients of vLLM's classifiers send and read, as NeMo Guardrails' `hf_classifier`."""
    backend = FakeBackend()
    tasks = {"safe": "binary", "topic": "multiclass", "tags": "multilabel"}
    probes = [make_artefact(name, backend.identity, task=task) for name, task in tasks.items()]
    with listening(PlainEngine(backend, probes)) as url:
        for probe in probes:
            asked = {"model": probe.name, "input": TEXTS}
            body = httpx.post(f"{url}/classify", json=asked, timeout=60).json()
            assert set(body) == {"id", "object", "created", "model", "data", "usage"}
            assert body["object"] == "list" and body["model"] == probe.name
            assert body["id"].startswith("classify-") and isinstance(body["created"], int)
            tokens = sum(map(len, TEXTS))
            assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == tokens
            wanted = LanguageModel(backend).score(TEXTS, [probe])
            for index, (entry, one) in enumerate(zip(body["data"], wanted, strict=True)):
                verdict, labels = one[probe.name], probe.card.labels
                assert set(entry) == {"index", "label", "probs", "num_classes"}
                assert entry["index"] == index and entry["num_classes"] == len(labels)
                probs = [verdict.probs[label] for label in labels]
                assert entry["probs"] == pytest.approx(probs, abs=2e-6)
                decided = [label for label in labels if label in verdict.labels]
                best = max(decided, key=lambda label: verdict.probs[label], default=None)
                assert entry["label"] == best
        one = httpx.post(f"{url}/classify", json={"model": "safe", "input": "a"}, timeout=60)
        assert len(one.json()["data"]) == 1


def test_the_classifier_of_vllms_route_is_named_as_the_model(client: TestClient) -> None:
    for model in ({}, {"model": "m"}):
        error = refusal(client, "/classify", {"input": "a", **model})
        assert "Which of the probes safe, topic, tags" in error["message"]
    assert refusal(client, "/classify", {"input": "a", "model": "x"}, 404)["param"] == "model"
    assert "one or more strings" in refusal(client, "/classify", {"input": [[1, 2]]})["message"]
    with application(ScriptedEngine(prompt_score=0.9)) as alone:
        for model in ({}, {"model": "m"}, {"model": "p"}):
            body = alone.post("/classify", json={"input": "a", **model}).json()
            assert body["data"] == [
                {"index": 0, "label": "yes", "probs": [0.1, 0.9], "num_classes": 2}
            ]
