"""vLLM's own engine on the CPU, with probes of some turns: their verdicts are those of their turns.

The reference is `Network.forward` on the states of the scope's tokens, from a pass of transformers
over the whole conversation by itself. Probes of every scope.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from riding import BLOCK_TOKENS, MARK, ProbedModel, greedy
from scoped import TALKS, ask, error, worst

from pillion.core import Tokens, Turn
from pillion.riding.latest_logits import KEY
from pillion.riding.turns import turns_args
from pillion.sidecache import TurnMap
from talks import continued
from tiny_models import full_states

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=["sync", "async"])
def llm(request: pytest.FixtureRequest, chat: ProbedModel) -> Generator[Any]:
    with chat.engine(async_scheduling=request.param == "async") as engine:
        yield engine


def test_a_conversation_that_goes_on_is_read_by_its_turns_of_now(
    chat: ProbedModel, llm: Any
) -> None:
    """Requests together, in chunks, with shared prefixes; then each goes on by two turns.

    The last turn of the user has moved on, and blocks that the answer filled are an earlier turn.
    """
    rows = [chat.backend.encode_chat(turns) for turns in TALKS]
    first = ask(llm, rows[:1], 40) + ask(llm, rows[1:], 40)
    assert first[1].num_cached_tokens > 0, "no prefix was shared"
    assert max(len(row) for row in rows) > 3 * BLOCK_TOKENS
    later = [
        continued(chat.backend.encode_chat, turns, output.outputs[0].token_ids)
        for turns, output in zip(TALKS, first, strict=True)
    ]
    second = ask(llm, later, 9)
    for row, output, going_on, more in zip(rows, first, later, second, strict=True):
        assert worst(chat, row, output) <= MARK
        assert more.num_cached_tokens > len(row), "no block that the answer filled was shared"
        assert worst(chat, going_on, more) <= MARK


def test_several_answers_are_read_by_their_own_tokens(chat: ProbedModel, llm: Any) -> None:
    row = chat.backend.encode_chat((Turn("user", "Say something else each time"),))
    (output,) = ask(llm, [row], 20, n=3, temperature=1.5)
    assert len({tuple(answer.token_ids) for answer in output.outputs}) == 3
    assert max(worst(chat, row, output, choice) for choice in range(3)) <= MARK


def test_blocks_that_others_filled_without_turns_give_no_verdict_and_no_other_number(
    chat: ProbedModel, llm: Any
) -> None:
    """The same tokens as a raw prompt have no turns: what they left cannot be cut by turns."""
    row = chat.backend.encode_chat((Turn("user", "A long turn of its own, " * 5),))
    (raw,) = ask(llm, [Tokens(row)], 5)
    (output,) = ask(llm, [row], 5)
    assert worst(chat, Tokens(row), raw) <= MARK
    assert output.num_cached_tokens > 0
    told = output.kv_transfer_params[KEY]["prompt"]
    assert "gate-all" in told and "gate-last-user" not in told
    assert worst(chat, row, output, lost=True) <= MARK


def test_turns_of_another_prompt_are_no_turns(chat: ProbedModel, llm: Any) -> None:
    row = chat.backend.encode_chat((Turn("user", "Cut short"),))
    prompt = {"prompt_token_ids": list(row[:-1])}
    (output,) = llm.generate([prompt], greedy(3, extra_args=turns_args(row)))
    assert set(output.kv_transfer_params[KEY]["prompt"]) == {"gate-all", "pooling-all"}


def test_reading_every_token_would_be_seen(
    chat: ProbedModel, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    row = chat.backend.encode_chat((Turn("user", "Not seen before"),))
    plain, pieces = TurnMap.bits, TurnMap.pieces

    def every(self: TurnMap, scope: Any, *places: Any, **others: Any) -> int:
        return plain(self, "all", *places)

    monkeypatch.setattr(TurnMap, "bits", every)
    monkeypatch.setattr(TurnMap, "pieces", lambda self, _, page: pieces(self, "all", page))
    (output,) = ask(llm, [row], 2)
    told = output.kv_transfer_params[KEY]["prompt"]
    states = full_states(chat.backend, row)
    for probe in chat.probes:
        if probe.name in told and probe.card.scope != "all":
            assert error(probe, told, states, row.ranges(probe.card.scope)) > 20 * MARK
    assert "gate-last-user" in told
