"""What a caller's autocast rounds is no verdict: our passes run without, a caller's are refused."""

from __future__ import annotations

import pytest
import torch

from pillion.backends.transformers import TransformersBackend
from pillion.core import as_tokens
from pillion.errors import MismatchError
from pillion.probe import AGGREGATORS, Artefact
from pillion.runtime import LanguageModel, attach
from pillion.runtime.explanation import explain_row
from tiny_models import (
    DEVICE,
    all_artefacts,
    distance,
    hooks_of,
    make_artefact,
    random_ids,
    tiny_backend,
    tiny_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [random_ids(40), random_ids(9, 1)]
AUTOCAST = torch.autocast(DEVICE.type, torch.bfloat16)


@pytest.fixture(scope="module")
def backend() -> TransformersBackend:
    return tiny_backend()


@pytest.fixture(scope="module")
def every(backend: TransformersBackend) -> list[Artefact]:
    return all_artefacts(backend.identity)


def test_scores_are_those_without_it(backend: TransformersBackend, every: list[Artefact]) -> None:
    """They were of states in bf16, which a card of a model in fp32 refuses where it is told."""
    model = LanguageModel(backend)
    wanted = model.score_rows(ROWS, every)
    with AUTOCAST:
        assert model.score_rows(ROWS, every) == wanted


def test_answers_and_explanations_are_those_without_it(
    backend: TransformersBackend, every: list[Artefact]
) -> None:
    model, row, every = LanguageModel(backend), as_tokens(ROWS[1]), every[:2]
    wanted = model.generate("a text", every, max_tokens=3, template="raw")
    reasons = [explain_row(model, one, row).as_json() for one in every]
    with AUTOCAST:
        found = model.generate("a text", every, max_tokens=3, template="raw")
        assert [explain_row(model, one, row).as_json() for one in every] == reasons
    assert (found.prompt, found.response) == (wanted.prompt, wanted.response)


@torch.no_grad()
def test_a_callers_pass_in_another_dtype_is_refused(backend: TransformersBackend) -> None:
    model, probe = backend.model, make_artefact("p", backend.identity)
    ids = torch.tensor(ROWS[:1], device=DEVICE)
    with attach(model, probe) as reading:
        model(ids)
        wanted = reading.verdicts()
        with AUTOCAST, pytest.raises(MismatchError, match=r"autocast in bfloat16, .* is float32"):
            model(ids)
        model(ids)
        assert reading.verdicts() == wanted
    assert hooks_of(model) == 0


@torch.no_grad()
@pytest.mark.parametrize("num_tokens", [9, 40])
def test_taps_and_folds_of_a_model_in_bf16_are_not_rounded_to_it(num_tokens: int) -> None:
    """Products of short chunks were, and those of long ones not: 0.001 between them."""
    model = tiny_model().to(torch.bfloat16)
    backend = TransformersBackend(model)
    layers = range(len(backend.blocks))  # what transformers tells of the last is behind its norm
    every = [make_artefact(name, backend.identity, name, layers=layers) for name in AGGREGATORS]
    ids = torch.tensor([ROWS[0][:num_tokens]], device=DEVICE)
    with AUTOCAST, attach(model, every) as reading:
        states = torch.stack(model(ids, output_hidden_states=True).hidden_states[:-1]).float()
        probs = reading.probabilities()
    for one in every:
        mask = torch.ones(1, num_tokens, dtype=torch.bool, device=DEVICE)
        wanted = one.probabilities(one.network(states, mask))
        assert distance(probs[one.name], wanted) < 1e-5, one.name
