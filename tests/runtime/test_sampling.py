"""How the next token is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pillion.errors import ConfigError
from pillion.runtime import Sampler, Sampling
from pillion.runtime.sampling import MIN_REPETITION_PENALTY

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


def assert_shares_of(kept: set[int], tokens: Tensor) -> None:
    """Those alone, the likeliest, are drawn, as often as they would be among each other."""
    assert set(tokens.tolist()) == kept
    wanted = PROBS.where(torch.arange(4) < len(kept), torch.zeros(()))
    assert torch.allclose(shares(tokens), wanted / wanted.sum(), atol=0.03)


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
    assert_shares_of(kept, draws(temperature=1.0, top_p=top_p))


def test_top_p_finds_the_likeliest_wherever_they_are() -> None:
    tokens = draws(logits=LOGITS[[3, 1, 0, 2]], temperature=1.0, top_p=0.7)

    assert set(tokens.tolist()) == {1, 2}


@pytest.mark.parametrize(
    ("min_p", "kept"),
    [(0.05, {0, 1, 2, 3}), (0.2, {0, 1, 2}), (0.5, {0, 1}), (0.7, {0}), (1.0, {0})],
)
def test_min_p_keeps_tokens_by_their_share_of_the_likeliest(min_p: float, kept: set[int]) -> None:
    assert_shares_of(kept, draws(temperature=1.0, min_p=min_p))


def test_top_p_counts_what_min_p_has_left() -> None:
    # Of 0.5, 0.3 and 0.15 the first two are 0.84.
    assert set(draws(temperature=1.0, min_p=0.2, top_p=0.83).tolist()) == {0, 1}


def by_hand(logits: Tensor, prompt: list[int], answer: list[int], how: Sampling) -> Tensor:
    """The logits that a token is drawn from, a token at a time."""
    out = logits.clone().double()
    for token, bias in how.logit_bias:
        out[token] += bias
    for token in range(len(out)):
        if token in prompt or token in answer:
            r = how.repetition_penalty
            out[token] = out[token] / r if out[token] > 0 else out[token] * r
        out[token] -= how.frequency_penalty * answer.count(token)
        out[token] -= how.presence_penalty * (token in answer)
    return out


@pytest.mark.parametrize(
    "facts",
    [
        {"presence_penalty": 1.5},
        {"presence_penalty": -0.5},
        {"frequency_penalty": 0.7},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.8},
        {"logit_bias": ((1, 2.0), (5, -100.0))},
        {
            "presence_penalty": 0.3,
            "frequency_penalty": -0.2,
            "repetition_penalty": 1.3,
            "logit_bias": ((0, -1.0), (2, 1.0)),
        },
    ],
)
def test_penalties_and_bias_are_those_written_out(facts: dict[str, float]) -> None:
    noise = torch.Generator().manual_seed(0)
    steps = torch.randn(40, 2, 8, generator=noise)
    how, prompt = Sampling(**facts), [3, 3, 6]  # type: ignore[arg-type]
    sampler = Sampler(how, torch.device("cpu"), prompt)
    answers: list[list[int]] = [[], []]
    for logits in steps:
        before = logits.clone()
        wanted = [
            int(by_hand(row, prompt, answer, how).argmax())
            for row, answer in zip(logits, answers, strict=True)
        ]
        assert sampler(logits).tolist() == wanted  # each row by its own answer
        assert torch.equal(logits, before)
        for answer, token in zip(answers, wanted, strict=True):
            answer.append(token)
    plain = Sampler(Sampling(), torch.device("cpu"))
    assert answers != [list(row) for row in zip(*(plain(s).tolist() for s in steps), strict=True)]


def test_the_least_repetition_penalty_leaves_the_likeliest() -> None:
    logits = torch.tensor([[90.0, 100.0, 60.0, 110.0]])
    for temperature in (0.0, 1.0):
        how = Sampling(temperature, repetition_penalty=MIN_REPETITION_PENALTY)
        assert Sampler(how, torch.device("cpu"), [0, 1, 2])(logits).item() == 1


def test_barred_tokens_stay_barred() -> None:
    how = Sampling(1.0, logit_bias=((0, 100.0),), repetition_penalty=0.5, presence_penalty=-2.0)
    logits = torch.tensor([[-torch.inf, 0.0]])
    sampler = Sampler(how, torch.device("cpu"), [0])
    assert {int(sampler(logits)) for _ in range(20)} == {1}


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", -0.1),
        ("min_p", math.nan),
        ("presence_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 5e-324),
        ("repetition_penalty", math.inf),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1, 101.0),)),
    ],
)
def test_impossible_shifts_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Sampling(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.1, math.nan])
def test_an_impossible_top_p_is_refused(top_p: float) -> None:
    with pytest.raises(ConfigError, match="top_p is"):
        Sampling(top_p=top_p)
