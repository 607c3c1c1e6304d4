"""How the next token is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pillion.errors import ConfigError
from pillion.runtime import Sampler, Sampling

PROBS = torch.tensor([0.5, 0.3, 0.15, 0.05])
LOGITS = PROBS.log()


def draws(num: int = 4000, logits: Tensor = LOGITS, **settings: float) -> Tensor:
    sampler = Sampler(Sampling(**settings), torch.device("cpu"))  # type: ignore[arg-type]
    return sampler(logits.expand(num, -1))


def shares(tokens: Tensor) -> Tensor:
    return torch.bincount(tokens, minlength=4) / len(tokens)


def test_temperature_0_takes_the_likeliest() -> None:
    assert draws(5).tolist() == [0] * 5


def test_every_row_has_its_own_likeliest() -> None:
    sampler = Sampler(Sampling(), torch.device("cpu"))

    assert sampler(torch.tensor([[0.0, 2.0], [1.0, 0.0]])).tolist() == [1, 0]


def test_temperature_1_draws_by_the_models_probabilities() -> None:
    assert torch.allclose(shares(draws(temperature=1.0)), PROBS, atol=0.03)


@pytest.mark.parametrize("temperature", [0.25, 2.0])
def test_temperature_is_the_power_of_the_probabilities(temperature: float) -> None:
    wanted = PROBS.pow(1 / temperature)

    assert torch.allclose(shares(draws(temperature=temperature)), wanted / wanted.sum(), atol=0.03)


def test_a_low_temperature_takes_the_likeliest() -> None:
    assert set(draws(temperature=0.01).tolist()) == {0}


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.01, {0}),
        (0.49, {0}),
        (0.51, {0, 1}),
        (0.79, {0, 1}),
        (0.81, {0, 1, 2}),
        (1.0, {0, 1, 2, 3}),
    ],
)
def test_top_p_keeps_the_likeliest_that_together_reach_it(top_p: float, kept: set[int]) -> None:
    tokens = draws(temperature=1.0, top_p=top_p)

    assert set(tokens.tolist()) == kept
    wanted = PROBS.where(torch.arange(4) < len(kept), torch.zeros(()))
    assert torch.allclose(shares(tokens), wanted / wanted.sum(), atol=0.03)


def test_top_p_finds_the_likeliest_wherever_they_are() -> None:
    tokens = draws(logits=LOGITS[[3, 1, 0, 2]], temperature=1.0, top_p=0.7)

    assert set(tokens.tolist()) == {1, 2}


def test_the_same_seed_draws_the_same_and_another_seed_others() -> None:
    first, same, other = (draws(50, temperature=1.0, seed=s) for s in (3, 3, 4))

    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_drawing_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    draws(5, temperature=1.0)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_an_impossible_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature is"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.1, math.nan])
def test_an_impossible_top_p_is_refused(top_p: float) -> None:
    with pytest.raises(ConfigError, match="top_p is"):
        Sampling(top_p=top_p)
