"""`/v1/explain`: contributions add up to the logit that the verdict comes from."""

from __future__ import annotations

import math

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize("probe", ["safe", "topic"])
def test_contributions_are_layers_by_tokens_of_a_label(client: TestClient, probe: str) -> None:
    known = client.post("/v1/classify", json={"input": "hello", "probes": [probe]}).json()
    probs = known["data"][0]["verdicts"][probe]["probs"]
    for label in probs:
        body = {"input": "hello", "probe": probe, "label": label}
        found = client.post("/v1/explain", json=body).json()
        assert found["method"] == "exact"
        assert found["prob"] == pytest.approx(probs[label], abs=1e-6)
        assert len(found["contributions"]) == len(found["layers"])
        assert {len(row) for row in found["contributions"]} == {len(found["tokens"])}


def test_the_two_labels_of_a_binary_probe_mirror_each_other(client: TestClient) -> None:
    told = client.post("/v1/classify", json={"input": "hello", "probes": ["safe"]}).json()
    negative, positive = told["data"][0]["verdicts"]["safe"]["probs"]
    sums = []
    for label in (negative, positive):
        found = client.post("/v1/explain", json={"input": "hello", "probe": "safe", "label": label})
        sums.append(math.fsum(math.fsum(row) for row in found.json()["contributions"]))
    assert sums[0] == pytest.approx(-sums[1])
    assert abs(sums[1]) > 1e-4


def test_without_a_label_the_decided_one_is_explained(client: TestClient) -> None:
    told = client.post("/v1/classify", json={"input": "hello", "probes": ["topic"]}).json()
    found = client.post("/v1/explain", json={"input": "hello", "probe": "topic"}).json()
    assert found["label"] == told["data"][0]["verdicts"]["topic"]["label"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"input": "x", "probe": "nobody"}, 404, "No probe 'nobody'"),
        ({"input": "x", "probe": "safe", "label": "purple"}, 400, "no label 'purple'"),
        ({"input": ""}, 400, "input"),
        ({"input": "x", "prob": "safe"}, 400, "Did you mean 'probe'?"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_sentence(
    client: TestClient, body: dict[str, str], status: int, words: str
) -> None:
    reply = client.post("/v1/explain", json=body)
    assert reply.status_code == status
    assert words in reply.json()["error"]["message"]
