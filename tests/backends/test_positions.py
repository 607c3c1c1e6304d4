"""A text that begins behind the first position: read where it changes nothing, else refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.sweep.shapes import tiny

from pillion import attach
from pillion.backends.transformers import TransformersBackend
from pillion.errors import StateError
from pillion.runtime import LanguageModel
from tiny_models import DEVICE, make_artefact, random_ids

ROWS = [random_ids(9), random_ids(12, seed=1)]
IDS = torch.tensor([[0] * 3 + ROWS[0], ROWS[1]], device=DEVICE)
MASK = torch.tensor([[0] * 3 + [1] * 9, [1] * 12], device=DEVICE)
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)
OTHER = "positions, and has other states than for the text alone"


@pytest.fixture(params=["gpt2", "gpt_neo", "gpt_bigcode", "xglm", "ctrl", "biogpt"])
def learned(request: pytest.FixtureRequest) -> Any:
    """A model that has learned its positions, and counts them from padding."""
    return tiny(request.param).to(DEVICE)


def alone(model: Any) -> tuple[Any, list[float]]:
    backend = TransformersBackend(model)
    probe = make_artefact("p", backend.identity)
    found = LanguageModel(backend).score_rows(ROWS, [probe])
    return probe, [one["p"].probs["yes"] for one in found]


def read(model: Any, probe: Any, ids: Any, **said: Any) -> list[float]:
    with attach(model, probe) as reading:
        model(ids, **said)
        return [one["p"].probs["yes"] for one in reading.verdicts()]


def test_padding_on_the_left_that_counts_as_positions_is_refused(learned: Any) -> None:
    """A verdict behind three tokens of padding was 0.15 off, without a word (GPT-2)."""
    probe, wanted = alone(learned)
    with pytest.raises(StateError, match=OTHER):
        read(learned, probe, IDS, attention_mask=MASK)
    with pytest.raises(StateError, match="position_ids that count its tokens from 0"):
        read(learned, probe, IDS[1:], position_ids=torch.arange(3, 15, device=DEVICE)[None])
    said = {"attention_mask": MASK, "position_ids": POSITIONS}
    assert read(learned, probe, IDS, **said) == pytest.approx(wanted, abs=1e-5)
    assert read(learned, probe, IDS[1:]) == pytest.approx(wanted[1:], abs=1e-5)
    with attach(learned, probe) as reading:
        learned.generate(IDS, attention_mask=MASK, max_new_tokens=1, pad_token_id=0)
        got = [one["p"].probs["yes"] for one in reading.verdicts()]
    assert got == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("kind", ["llama", "opt", "bloom", "mpt", "mamba"])
def test_padding_on_the_left_that_changes_nothing_is_read(kind: str) -> None:
    model = tiny(kind).to(DEVICE)
    probe, wanted = alone(model)
    assert read(model, probe, IDS, attention_mask=MASK) == pytest.approx(wanted, abs=1e-5)


def test_a_trial_is_shown_to_no_reading() -> None:
    model = tiny("llama").to(DEVICE)
    probe, wanted = alone(model)
    with attach(model, probe) as one, attach(model, probe) as two:
        model(IDS, attention_mask=MASK)
        for reading in (one, two):
            got = [row["p"].probs["yes"] for row in reading.verdicts()]
            assert got == pytest.approx(wanted, abs=1e-5)


def test_positions_that_a_model_does_not_take_change_nothing() -> None:
    """Bart swallows them, and counts padding all the same."""
    model = tiny("bart").to(DEVICE)
    probe, _ = alone(model)
    with pytest.raises(StateError, match=OTHER):
        read(model, probe, IDS, attention_mask=MASK, position_ids=POSITIONS)
