"""vLLM's own engine on the CPU: verdicts are those of whole texts, whatever the engine does."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from riding import LENGTHS, MARK, ProbedModel, greedy, random_prompts
from waiting import NeverWait

from pillion.sidecache import PagedGroup
from pillion.vllm.taps import VllmTaps

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module", params=["sync", "async"])
def llm(request: pytest.FixtureRequest, tiny: ProbedModel) -> Generator[Any]:
    """An engine with room enough, with either scheduler."""
    with tiny.engine(async_scheduling=request.param == "async") as engine:
        scheduler = engine.llm_engine.engine_core.engine_core.scheduler
        assert ("Async" in type(scheduler).__name__) is (request.param == "async")
        yield engine


def test_chunks_and_prefix_hits_change_nothing(tiny: ProbedModel, llm: Any) -> None:
    first = llm.generate(random_prompts(LENGTHS), greedy(40))
    again = llm.generate(random_prompts(LENGTHS), greedy(7))
    assert max(map(tiny.error, first)) <= MARK
    assert max(map(tiny.error, again)) <= MARK
    hits = [output.num_cached_tokens for output in again]
    assert sum(hit > 0 for hit in hits) >= 6, hits


def test_an_answer_of_one_token_has_no_verdict(tiny: ProbedModel, llm: Any) -> None:
    (one,) = llm.generate(random_prompts([(100, 3)]), greedy(1))
    assert tiny.error(one) <= MARK
    assert one.kv_transfer_params["pillion"]["response"] == {}


def test_several_answers_have_verdicts_of_their_own(tiny: ProbedModel, llm: Any) -> None:
    params = greedy(33, temperature=1.5, n=3)
    for output in llm.generate(random_prompts([(0, 40), (100, 9)], seed=5), params):
        assert len({tuple(answer.token_ids) for answer in output.outputs}) == 3
        assert max(tiny.error(output, choice) for choice in range(3)) <= MARK


def test_a_stop_string_ends_the_verdicts_where_it_ends_the_answer(
    tiny: ProbedModel, llm: Any
) -> None:
    """The frontend finds it; the engine only sees that the request was given up."""
    (plain,) = llm.generate(random_prompts([(0, 20)], seed=6), greedy(60))
    stop = plain.outputs[0].text[9:11]
    (stopped,) = llm.generate(random_prompts([(0, 20)], seed=6), greedy(60, stop=[stop]))
    assert stopped.outputs[0].finish_reason == "stop"
    assert 1 < len(stopped.outputs[0].token_ids) < 60
    assert tiny.error(stopped) <= MARK
    several = greedy(64, temperature=1.5, n=4, stop=list("aeiou"))
    (output,) = llm.generate(random_prompts([(0, 20)], seed=7), several)
    assert len({len(answer.token_ids) for answer in output.outputs}) > 1
    assert max(tiny.error(output, choice) for choice in range(4)) <= MARK


def test_the_forward_pass_does_nothing_that_would_wait(
    llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, seen = VllmTaps.see, list[int]()

    def see(self: VllmTaps, *args: Any) -> None:
        with NeverWait() as mode:
            plain(self, *args)
        seen.append(mode.num_operations)
        assert not mode.num_uploads

    monkeypatch.setattr(VllmTaps, "see", see)
    llm.generate(random_prompts(LENGTHS[:3], seed=8), greedy(3))
    assert seen


def test_pooling_only_the_rows_that_a_pass_shows_is_wrong(
    tiny: ProbedModel, llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a probe that sees rows of the forward pass misses what a prefix hit brought."""
    plain = PagedGroup.restart

    def rows_seen(self: PagedGroup, row: int, _: Any, turns: Any) -> bool:
        return plain(self, row, [], turns)

    llm.generate(random_prompts(LENGTHS), greedy(2))
    monkeypatch.setattr(PagedGroup, "restart", rows_seen)
    outputs = llm.generate(random_prompts([*LENGTHS, (0, 50)], seed=0), greedy(2))
    hits = [output for output in outputs if output.num_cached_tokens]
    assert hits and len(hits) < len(outputs)
    assert min(map(tiny.error, hits)) > 100 * MARK
    assert max(tiny.error(output) for output in outputs if not output.num_cached_tokens) <= MARK
