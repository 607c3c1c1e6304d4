"""Of a step only the tokens that are read are tapped, and each is found at its own place."""

from __future__ import annotations

import pytest
import torch

from pillion.core import ModelIdentity
from pillion.probe.group import Group
from pillion.sidecache import step_values
from pillion.sidecache.step_values import StepValues
from tiny_models import make_artefact

IDENTITY = ModelIdentity("none", "w", "t", "c", 4, 16, "float32", 4096)
READ = [(0, 0b0110), (5, 0b1)]
"""Tokens 1, 2 and 5 of nine."""


def group() -> Group:
    probe = make_artefact("user", IDENTITY, template="chat", scope="user")
    return Group([probe], torch.device("cpu"), torch.float32)


def tapped(values: StepValues, states: torch.Tensor) -> torch.Tensor:
    for layer, hidden in enumerate(states):
        values.see(layer, hidden)
    return values.between(0, states.shape[2])


def test_tokens_that_are_read_have_their_values_and_others_are_zero(
    generator: torch.Generator,
) -> None:
    states = torch.randn(5, 1, 9, 16, generator=generator)
    states[:, :, 3] = torch.nan  # of no word that is read
    every, some = StepValues(group()), StepValues(group())
    whole = tapped(every, states)
    some.choose(READ)
    chosen = tapped(some, states)
    read = [1, 2, 5]
    assert torch.allclose(chosen[:, :, read], whole[:, :, read], atol=1e-6)
    assert not chosen[:, :, [0, 3, 4, 6, 7, 8]].any()
    assert torch.equal(some.at(torch.tensor([5, 0, 1])), chosen[:, 0, [5, 0, 1]])


def test_where_most_tokens_are_read_all_are_tapped_and_the_next_step_begins_anew(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = torch.randn(5, 1, 9, 16, generator=generator)
    values, whole = StepValues(group()), tapped(StepValues(group()), states)
    values.choose(READ)
    tapped(values, states)
    values.choose([(0, 0b111111111)])
    assert torch.allclose(tapped(values, states), whole, atol=1e-6)
    values.choose(READ)
    tapped(values, states)
    values.see_all(states, tuple(range(5)))  # a small step, all layers at once
    assert torch.allclose(values.between(0, 9), whole, atol=1e-6)
    monkeypatch.setattr(step_values, "MOST_CHOSEN", 0.2)
    assert torch.allclose(tapped(values, states), whole, atol=1e-6)
