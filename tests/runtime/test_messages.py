"""Lists of messages, as every client library has them, are taken wherever texts are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import pillion
from chat_templates import chat_backend
from pillion.core import as_conversation
from pillion.errors import DataError
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, attach, explain
from pillion.train import TrainSettings
from tiny_models import make_artefact

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "Write a note."},
]
TURNS = as_conversation(MESSAGES)


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(chat_backend())


@pytest.fixture
def probe(model: LanguageModel) -> Artefact:
    identity = model.backend.identity
    return make_artefact("p", identity, template="chat", scope="last-user")


def test_scoring_takes_messages(model: LanguageModel, probe: Artefact) -> None:
    """A list of dictionaries ended in an AttributeError."""
    assert model.score([MESSAGES], [probe]) == model.score([TURNS], [probe])


def test_generating_and_streaming_take_messages(model: LanguageModel, probe: Artefact) -> None:
    one, two = (model.generate(text, probes=[probe], max_tokens=3) for text in (MESSAGES, TURNS))
    assert one.text == two.text
    assert one.prompt == two.prompt
    assert list(model.stream(MESSAGES, probes=[probe], max_tokens=3))


def test_explaining_takes_messages(model: LanguageModel, probe: Artefact) -> None:
    one, two = (explain(model, probe, text) for text in (MESSAGES, TURNS))
    assert one.token_ids == two.token_ids
    assert one.segments == two.segments


def test_an_attached_reading_encodes_messages(model: LanguageModel, probe: Artefact) -> None:
    tokenizer = model.backend.tokenizer  # type: ignore[attr-defined]
    with attach(model.backend.model, [probe], tokenizer) as reading:  # type: ignore[attr-defined]
        one, two = (reading.encode([text])["input_ids"] for text in (MESSAGES, TURNS))
    assert torch.equal(one, two)


def test_fitting_and_predicting_take_messages(model: LanguageModel) -> None:
    words = ["a good day", "a bad day"]
    texts = [[MESSAGES[0], {"role": "user", "content": f"{words[i % 2]} {i}"}] for i in range(40)]
    made = pillion.Probe(model=model, train=TrainSettings(epochs=1)).fit(
        texts, ["fine", "poor"] * 20
    )
    assert made.predict(texts[:3]) == made.predict([as_conversation(t) for t in texts[:3]])


def test_messages_that_are_none_are_refused_in_a_sentence(
    model: LanguageModel, probe: Artefact
) -> None:
    with pytest.raises(DataError, match=r"Row 1: turn 1 has the unknown role 'robot'"):
        model.score([[{"role": "robot", "content": "x"}]], [probe])
