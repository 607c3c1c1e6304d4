"""Sleep mode: what vLLM takes away and gives back changes no verdict.

A CPU has no memory that sleeps, so what vLLM does on a GPU is done here by hand: everything that it
does not keep is overwritten.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import torch
from riding import LENGTHS, MARK, ProbedModel, greedy, random_prompts
from torch import Tensor

from pillion.errors import ConfigError
from pillion.vllm.adapter import VllmStepReader

pytestmark = pytest.mark.vllm


@pytest.fixture
def llm(tiny: ProbedModel) -> Generator[Any]:
    with tiny.engine(async_scheduling=False) as engine:
        yield engine


def sleep(llm: Any, level: int) -> None:
    """What vLLM 0.33 does at `sleep` and `wake_up`; at level 2 it forgets the weights."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    core = llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    reader = runner.model.pillion.reader
    core.scheduler.reset_prefix_cache(reset_running_requests=True)
    kept = {n: b.clone() for n, b in runner.model.named_buffers()} if level == 2 else {}
    weights = tensors_in(runner.model.pillion.taps)
    own = {tensor.data_ptr() for tensor in weights}
    held = [one for one in tensors_in(reader) if one.data_ptr() not in own] + runner.kv_caches
    get_kv_transfer_group().unregister_kv_caches()
    for tensor in [*held, *(weights if level == 2 else ())]:
        spoil(tensor)
    get_kv_transfer_group().restore_kv_caches()
    for name, buffer in runner.model.named_buffers():
        if name in kept:
            buffer.data.copy_(kept[name])


def tensors_in(one: Any, seen: set[int] | None = None) -> list[Tensor]:
    """Every tensor that an object of ours holds."""
    seen = set() if seen is None else seen
    if id(one) in seen:
        return []
    seen.add(id(one))
    if isinstance(one, Tensor):
        return [one]
    inner: Any = ()
    if isinstance(one, dict):
        inner = one.values()
    elif isinstance(one, (list, tuple)):
        inner = one
    elif isinstance(one, torch.nn.Module):
        return [*one.parameters(), *one.buffers()]
    elif type(one).__module__.startswith("pillion."):
        inner = vars(one).values()
    return [tensor for part in inner for tensor in tensors_in(part, seen)]


def spoil(tensor: Tensor) -> None:
    tensor.data.fill_(torch.nan if tensor.is_floating_point() else 0)


@pytest.mark.parametrize("level", [1, 2])
def test_verdicts_after_a_sleep_are_those_before(tiny: ProbedModel, llm: Any, level: int) -> None:
    llm.generate(random_prompts(LENGTHS), greedy(20))
    sleep(llm, level)
    first = llm.generate(random_prompts(LENGTHS), greedy(20))
    again = llm.generate(random_prompts(LENGTHS), greedy(3))
    assert not first[0].num_cached_tokens and sum(output.num_cached_tokens for output in again)
    assert max(map(tiny.error, [*first, *again])) <= MARK


def test_requests_that_run_go_on_after_a_sleep(tiny: ProbedModel, llm: Any) -> None:
    engine = llm.llm_engine
    for number, prompt in enumerate(random_prompts(LENGTHS, seed=3)):
        engine.add_request(str(number), prompt, greedy(30))
    outputs = [output for _ in range(12) for output in engine.step()]
    running = {output.request_id for output in outputs if output.outputs[0].token_ids}
    assert running and not any(output.finished for output in outputs)
    sleep(llm, 2)
    while engine.has_unfinished_requests():
        outputs += engine.step()
    ended = [output for output in outputs if output.finished]
    assert len(ended) == len(LENGTHS) and max(map(tiny.error, ended)) <= MARK


@pytest.mark.parametrize("lost", ["sleep", "hold"])
def test_without_the_hooks_or_the_buffers_verdicts_would_be_wrong(
    tiny: ProbedModel, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """The control: rows and places, or the taps, hold what is left in the memory."""
    from pillion.vllm.models import SideCacheLayer

    owner: Any = VllmStepReader if lost == "sleep" else SideCacheLayer
    monkeypatch.setattr(owner, lost, lambda _: None)
    with tiny.engine(async_scheduling=False) as llm:
        sleep(llm, 2)
        outputs = llm.generate(random_prompts(LENGTHS), greedy(5))
        assert not any(tiny.error(output) <= MARK for output in outputs)


def test_a_vllm_that_says_nothing_when_it_sleeps_is_refused(
    tiny: ProbedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import EngineArgs

    from pillion.vllm.hook import check_engine

    arguments = {k: v for k, v in tiny.options().items() if k != "disable_log_stats"}
    config = EngineArgs(**arguments).create_engine_config()
    config.model_config.enable_sleep_mode = True
    monkeypatch.setattr("pillion.vllm.hook.vllm_version", lambda: "0.33.1")
    check_engine(config)
    monkeypatch.setattr("pillion.vllm.hook.vllm_version", lambda: "0.32.0")
    with pytest.raises(ConfigError, match=r"sleep mode in vLLM 0\.32\.0, which does not say"):
        check_engine(config)
