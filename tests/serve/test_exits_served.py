"""Served classification leaves early, as the card says; a chat's verdicts are of all layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client import application, ask, settings

from pillion.backends.fake import FakeBackend
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, PlainEngine
from tiny_models import make_artefact

TEXT = "hello"


def leaving(backend: FakeBackend) -> Artefact:
    """A probe of the user's words whose every text leaves at depth 1."""
    probe = make_artefact("p", backend.identity, template="chat", scope="last-user")
    read = {"depth": 1, "bands": ((0.5, 0.5),)}
    return probe.revised(depths=(1,), exit={"reads": (read,), "found": {}})


def said(answer: Any) -> float:
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]["verdicts"]["p"]["probs"]["yes"]


def test_texts_leave_early_and_prompts_of_chats_are_read_whole() -> None:
    backend = FakeBackend()
    probe, model = leaving(backend), LanguageModel(backend)
    early, whole = (model.score([TEXT], [one])[0]["p"].probs["yes"] for one in (probe, probe.whole))
    assert abs(early - whole) > 1e-3
    with application(PlainEngine(backend, [probe])) as client:
        read = client.post("/v1/classify", json={"input": [TEXT]})
        assert said(read) == pytest.approx(early, abs=1e-5)
        judged = client.post("/v1/moderations", json={"input": TEXT, "model": "p"}).json()
        scores = judged["results"][0]["category_scores"]
        assert scores["yes"] == pytest.approx(early, abs=1e-5)
        prompt = ask(client, max_tokens=1)["verdicts"]["prompt"]["p"]
        assert prompt["probs"]["yes"] == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("exits", [True, False])
def test_a_probe_that_is_loaded_leaves_early_unless_exits_are_off(
    exits: bool, tmp_path: Path
) -> None:
    backend = FakeBackend()
    probe = leaving(backend)
    probe.save(tmp_path / "p")
    wanted = probe if exits else probe.whole
    early = LanguageModel(backend).score([TEXT], [wanted])[0]["p"].probs["yes"]
    chosen = settings(probe_folders=(tmp_path,), exits=exits, check=False)
    with application(PlainEngine(backend), chosen) as client:
        assert client.post("/v1/probes", json={"path": "p"}).status_code == 201
        read = client.post("/v1/classify", json={"input": [TEXT]})
        assert said(read) == pytest.approx(early, abs=1e-5)
