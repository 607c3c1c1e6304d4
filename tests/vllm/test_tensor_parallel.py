"""Two processes of tensor parallelism: states are the same on both, and the first one reads."""

from __future__ import annotations

from typing import Any

import pytest
from riding import MARK, ProbedModel, greedy, random_prompts, save_tiny_model

pytestmark = pytest.mark.vllm


def places(worker: Any) -> int:
    """Places of the KV cache that a rank has followed."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    return int(get_kv_transfer_group()._layer.reader._token_of_slot.count_nonzero())


def test_two_ranks_read_what_one_reads(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ranks would want a NUMA node each, and many machines have one.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # to ask ranks what they follow
    root = tmp_path_factory.mktemp("tiny")
    tiny = ProbedModel(save_tiny_model(root / "model"), root / "probes")
    lengths = [(0, 9), (70, 40), (70, 3), (0, 100)]
    with tiny.engine(tensor_parallel_size=2, distributed_executor_backend="mp") as llm:
        outputs = llm.generate(random_prompts(lengths), greedy(40))
        outputs += llm.generate(random_prompts(lengths), greedy(3))
        first, second = llm.collective_rpc(places)
    assert sum(output.num_cached_tokens > 0 for output in outputs) >= 2
    assert max(map(tiny.error, outputs)) <= MARK
    assert first > 100 and second == 0
