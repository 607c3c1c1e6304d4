"""SGLang's own server on the CPU: verdicts are those of whole texts, whatever the engine does.

The reference is `Network.forward` on the states of the scope's tokens, from a pass of transformers
over the whole conversation by itself.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from sglang_asking import Answer, ask, chat_request, grown, raw_request
from sglang_probed import ProbedModel
from sglang_serving import serving

from pillion.core import Tokens, Turn
from saved_models import MARK
from talks import talks

pytestmark = pytest.mark.sglang
TALKS = talks(
    "You serve a bank, and you are to be brief and kind in all that you say.",
    last="My balance, please! " * 6,  # read in several chunks
)
MORE = (Turn("tool", "none"), Turn("user", "And then?"))
LENGTHS = [(0, 5), (0, 37), (100, 20), (100, 33), (64, 1), (100, 90), (0, 200), (32, 32), (0, 31)]
"""Prompts of (tokens that all share, tokens of its own)."""
WAYS = {
    "pages of 16": (),
    "pages of 1, without overlap": ("--page-size", "1", "--disable-overlap-schedule"),
    "mixed steps": ("--enable-mixed-chunk",),
    "little room": ("--max-total-tokens", "704", "--schedule-conservativeness", "0"),
}


@pytest.fixture(scope="module", params=sorted(WAYS))
def served(
    request: pytest.FixtureRequest, chat: ProbedModel, tmp_path_factory: pytest.TempPathFactory
) -> Generator[tuple[str, str, Path]]:
    """Way, address, and the file with the kinds of its steps."""
    folder = tmp_path_factory.mktemp("served")
    counts = folder / "counts"
    variables = {"PILLION_SGLANG_COUNTS": str(counts)}
    if request.param == "little room":  # and SGLang puts a request back every few steps
        variables |= {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "7"}
    with serving(chat, folder, *WAYS[request.param], variables=variables) as address:
        yield request.param, address, counts


def talk(chat: ProbedModel, address: str, times: int = 1) -> tuple[list[Answer], list[Answer]]:
    """Conversations asked together, each of which then goes on by two turns; all are exact."""
    encode = chat.backend.encode_chat
    bodies = [chat_request(turns, 20 + 7 * i) for i, turns in enumerate(TALKS)] * times
    first = ask(address, bodies[:1]) + ask(address, bodies[1:])
    for turns, answer in zip(TALKS * times, first, strict=True):
        assert chat.worst(encode(turns), answer.ids, answer.verdicts) <= MARK
    later = [
        grown(encode, turns, answer.body["choices"][0]["message"]["content"], MORE)
        for turns, answer in zip(TALKS, first, strict=False)
    ]
    for turns, answer, (_, row) in zip(TALKS, first, later, strict=False):
        drawn = [*encode(turns), *answer.ids]
        assert list(row[: len(drawn)]) == drawn, "the answer is other tokens as words"
    second = ask(address, [chat_request(turns, 9) for turns, _ in later])
    for (_, row), answer in zip(later, second, strict=True):
        assert chat.worst(row, answer.ids, answer.verdicts) <= MARK
    return first, second


def test_conversations_are_read_by_their_turns_of_now(
    chat: ProbedModel, served: tuple[str, str, Path]
) -> None:
    """Requests together, in chunks, with shared prefixes that end inside turns; each goes on.

    The last turn of the user has moved on, and pages that the answer filled are an earlier turn.
    """
    way, address, counts = served
    first, second = talk(chat, address)
    assert max(answer.cached_tokens for answer in first) > 0, "no prefix was shared"
    if way != "little room":
        for turns, answer in zip(TALKS, second, strict=True):
            least = len(chat.backend.encode_chat(turns))
            assert answer.cached_tokens >= least // 16 * 16, "no page of the turn before was shared"
    kinds = Counter(line.split()[0] for line in counts.read_text(encoding="utf-8").splitlines())
    assert kinds["EXTEND"] + kinds["MIXED"] > len(TALKS), "no prompt was read in chunks"


def test_prompts_of_every_length_are_read_whole(
    chat: ProbedModel, served: tuple[str, str, Path]
) -> None:
    way, address, counts = served
    rng = random.Random(5)
    shared = [rng.randrange(256) for _ in range(300)]
    rows = [shared[:begin] + [rng.randrange(256) for _ in range(own)] for begin, own in LENGTHS]
    rows += rows[1:4]  # the same prompt twice at once
    answers = ask(address, [raw_request(row, 5 + i * 7 % 24) for i, row in enumerate(rows)])
    answers += ask(address, [raw_request(row, 4) for row in rows])
    for row, answer in zip(rows + rows, answers, strict=True):
        assert chat.worst(Tokens(row), answer.ids, answer.verdicts) <= MARK
    assert sum(answer.cached_tokens > 0 for answer in answers) >= 6
    if way == "mixed steps":
        assert "MIXED" in counts.read_text(encoding="utf-8")


def test_requests_that_are_put_back_are_read_once_more(
    chat: ProbedModel, served: tuple[str, str, Path]
) -> None:
    way, address, _ = served
    encode, rng = chat.backend.encode_chat, random.Random(8)
    rows = [[rng.randrange(256) for _ in range(15 + 3 * i)] for i in range(12)]
    bodies = [raw_request(row, 40 + 9 * i % 50) for i, row in enumerate(rows)]
    bodies += [chat_request(turns, 40) for turns in TALKS]
    answers = ask(address, bodies)
    prompts = [*map(Tokens, rows), *map(encode, TALKS)]
    for prompt, answer in zip(prompts, answers, strict=True):
        assert chat.worst(prompt, answer.ids, answer.verdicts) <= MARK
    assert (sum(answer.retractions for answer in answers) > 5) == (way == "little room")


def test_an_answer_of_one_token_has_no_verdict(
    chat: ProbedModel, served: tuple[str, str, Path]
) -> None:
    (answer,) = ask(served[1], [raw_request([7, 8, 9], 1)])
    assert chat.worst(Tokens([7, 8, 9]), answer.ids, answer.verdicts) <= MARK
    assert answer.verdicts["response"] == {}


def test_tokens_that_others_filled_without_turns_give_no_verdict_and_no_other_number(
    chat: ProbedModel, served: tuple[str, str, Path]
) -> None:
    """The same tokens as a raw prompt have no turns: what they left cannot be cut by turns."""
    turns = (Turn("user", "A long turn of its own, " * 5),)
    row = chat.backend.encode_chat(turns)
    ask(served[1], [raw_request(row, 5)])
    (answer,) = ask(served[1], [chat_request(turns, 5)])
    assert answer.cached_tokens > 0
    told = answer.verdicts["prompt"]
    assert told["gate-all"]["label"] and told["gate-last-user"]["label"] is None
    assert "could not tell whose words" in told["gate-last-user"]["reason"]


def test_pooling_only_the_rows_that_a_pass_shows_is_wrong(
    chat: ProbedModel, tmp_path: Path
) -> None:
    """The control: a probe that sees rows of the forward pass misses what a prefix hit brought."""
    rng = random.Random(6)
    row = [rng.randrange(256) for _ in range(120)]
    with serving(chat, tmp_path, variables={"PILLION_SGLANG_BLIND": "1"}) as address:
        (first,) = ask(address, [raw_request(row, 3)])
        (second,) = ask(address, [raw_request(row, 3)])
    assert not first.cached_tokens and second.cached_tokens
    assert chat.worst(Tokens(row), first.ids, first.verdicts) <= MARK
    assert chat.worst(Tokens(row), second.ids, second.verdicts) > 100 * MARK


@pytest.mark.parametrize("architecture", ["mistral", "qwen2", "qwen3"])
def test_other_models_are_read_alike(
    architecture: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(architecture)
    ridden: Any = ProbedModel(folder, architecture)
    with serving(ridden, folder) as address:
        talk(ridden, address)
