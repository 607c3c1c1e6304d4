"""Engines of their own, one after the other: too few blocks, bf16, other architectures.

Apart from `test_exactness`, whose engine lives as long as its module: vLLM keeps its state in
globals of the process, and two engines at once would share it.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch
from riding import (
    LENGTHS,
    MARK,
    ProbedModel,
    greedy,
    random_prompts,
    relative_error,
    save_chat_model,
    save_tiny_model,
)
from safetensors.torch import save_file
from scoped import TALKS, ask, error, save_scoped, worst

from pillion.backends import load_backend
from pillion.core import Turn
from pillion.riding.latest_logits import KEY
from pillion.riding.verdicts import Verdicts, verdicts_of
from tiny_models import full_states

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_preemption_changes_nothing(tiny: ProbedModel, is_async: bool) -> None:
    with tiny.engine(num_gpu_blocks_override=25, async_scheduling=is_async) as llm:
        lengths = [(0, 60 + 9 * i) for i in range(8)] + [(96, 5 * i + 1) for i in range(4)]
        outputs = llm.generate(random_prompts(lengths, seed=3), greedy(110))
        metrics = {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}
        assert metrics["vllm:num_preemptions"] > 0
        assert max(map(tiny.error, outputs)) <= MARK


def test_preemption_changes_nobodys_words(tmp_path: Path) -> None:
    chat = ProbedModel(save_chat_model(tmp_path / "model"), tmp_path / "probes", save_scoped)
    rows = [chat.backend.encode_chat(turns) for turns in TALKS]
    rows += [chat.backend.encode_chat((Turn("user", f"{n} " * 30),)) for n in range(4)]
    with chat.engine(num_gpu_blocks_override=25) as llm:
        outputs = ask(llm, rows, 110)
        metrics = {m.name: m.value for m in llm.get_metrics() if hasattr(m, "value")}
    assert metrics["vllm:num_preemptions"] > 0
    found = zip(rows, outputs, strict=True)
    assert max(worst(chat, row, output) for row, output in found) <= MARK


def test_reasoning_in_an_answer_is_left_out(tmp_path: Path) -> None:
    """Steps then know the tokens of those before: vLLM does not schedule asynchronously."""
    chat = ProbedModel(
        save_chat_model(tmp_path / "model", "qwen3"), tmp_path / "probes", save_scoped
    )
    first, last = chat.backend.reasoning_ids or (-1, -1)
    row = chat.backend.encode_chat((Turn("user", "Think, then say"),))
    with chat.engine() as llm:
        scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        assert "Async" not in type(scheduler).__name__
        some = {"temperature": 1.0, "seed": None, "allowed_token_ids": [65, 66, 67, first, last]}
        outputs = [ask(llm, [row], 45, **some)[0] for _ in range(3)]
    for output in outputs:
        ids = list(output.outputs[0].token_ids)[:-1]
        assert first in ids and last in ids
        spoken: list[range] = []
        inside = False
        for place, token in enumerate(ids, len(row)):
            inside = token == first if token in (first, last) else inside
            if not inside and token != last:
                spoken.append(range(place, place + 1))
        states = full_states(chat.backend, [*row, *ids])
        told = output.kv_transfer_params[KEY]["response"]
        for probe in chat.probes:
            if probe.card.scope in ("response", "assistant"):
                assert error(probe, told, states, spoken) <= MARK
                whole = [range(len(row), len(row) + len(ids))]
                assert error(probe, told, states, whole) > 20 * MARK


@pytest.mark.parametrize("has_amx", [False, True], ids=["any processor", "one with AMX"])
def test_a_model_in_bf16_is_read_in_fp32(
    tiny: ProbedModel, has_amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far from fp32 as the model itself is when transformers runs it in bf16, and no farther.

    On processors with AMX vLLM takes kernels of their own.
    """
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_amx)
    rounded = load_backend(str(tiny.folder), dtype="bfloat16", device="cpu")
    with tiny.engine(dtype="bfloat16", allow_mismatch=True) as llm:
        outputs = llm.generate(random_prompts(LENGTHS), greedy(5))
    ours, theirs = [], []
    for output in outputs:
        prompt = list(output.prompt_token_ids)
        exact = tiny.logits(prompt, 0, len(prompt))
        ours.append(relative_error(output.kv_transfer_params[KEY]["prompt"], exact))
        other = tiny.logits(prompt, 0, len(prompt), rounded)
        theirs.append(relative_error({k: v.tolist() for k, v in other.items()}, exact))
    assert MARK < statistics.median(ours) < 1.5 * statistics.median(theirs)


@pytest.mark.parametrize("kind", ["qwen3", "mistral"])
def test_other_architectures_ride_with_the_same_class(tmp_path: Path, kind: str) -> None:
    model = ProbedModel(save_tiny_model(tmp_path / "model", kind), tmp_path / "probes")
    with model.engine() as llm:
        outputs = llm.generate(random_prompts(LENGTHS[:4]), greedy(9))
        outputs += llm.generate(random_prompts(LENGTHS[:4]), greedy(9))
    assert max(map(model.error, outputs)) <= MARK
    assert sum(output.num_cached_tokens > 0 for output in outputs) > 0


def test_a_model_with_sliding_windows_rides_in_one_group_of_caches(tmp_path: Path) -> None:
    """A token of its first layer sees no farther than the window; its probes read them all."""
    folder = save_tiny_model(tmp_path / "model", "mistral", sliding_window=24)
    model = ProbedModel(folder, tmp_path / "probes")
    with model.engine() as llm:
        config = llm.llm_engine.vllm_config
        assert config.scheduler_config.disable_hybrid_kv_cache_manager
        outputs = llm.generate(random_prompts(LENGTHS[:6]), greedy(40))
        outputs += llm.generate(random_prompts(LENGTHS[:6]), greedy(9))
    assert max(map(model.error, outputs)) <= MARK
    assert sum(output.num_cached_tokens > 0 for output in outputs) > 0
    wide = load_backend(str(folder), dtype="float32", device="cpu")
    for block in wide.model.model.layers:
        block.self_attn.sliding_window = None
    wide.model.config.sliding_window = None
    ids = list(outputs[6 - 1].prompt_token_ids)
    far, near = (model.logits(ids, 0, len(ids), one) for one in (wide, model.backend))
    assert relative_error({name: one.tolist() for name, one in far.items()}, near) > 20 * MARK


def test_requests_for_adapters_have_no_verdict_and_change_no_other(
    tiny: ProbedModel, tmp_path: Path
) -> None:
    """The bug: probes read the states of an adapter that they were not trained with.

    Adapters that share a batch with the model do nothing here: on a CPU vLLM runs the last adapter
    of a batch for those that ask for none, too, and answers them with other tokens.
    """
    from vllm.lora.request import LoRARequest

    one, two, strong = (
        LoRARequest(name, i, str(save_adapter(tmp_path / name, tiny, strength)))
        for i, (name, strength) in enumerate((("one", 0.0), ("two", 0.0), ("strong", 1.0)), 1)
    )
    prompts = random_prompts(LENGTHS[:4])
    with tiny.engine(enable_lora=True, max_loras=3, max_lora_rank=8) as llm:
        for _ in range(2):  # again, with prefixes from the cache
            asked = [(p, a) for p in prompts for a in (one, None, two)]
            outputs = llm.generate(
                [p for p, _ in asked], greedy(9), lora_request=[a for _, a in asked]
            )
            for (_, adapter), output in zip(asked, outputs, strict=True):
                found = verdicts_of(output.kv_transfer_params, tiny.probes)
                if adapter is None:
                    assert tiny.error(output) <= MARK and found.unread is None
                else:
                    assert found == Verdicts({}, {}, 0, unread(adapter.lora_name))
        strange = llm.generate(prompts, greedy(9), lora_request=strong)
        plain = outputs[1::3]
    for output, other in zip(strange, plain, strict=True):
        found = verdicts_of(output.kv_transfer_params, tiny.probes)
        assert found == Verdicts({}, {}, 0, unread("strong"))
        assert output.outputs[0].token_ids != other.outputs[0].token_ids


def unread(adapter: str) -> str:
    return f"the request ran with the adapter {adapter!r}, which no probe has seen"


def save_adapter(folder: Path, ridden: ProbedModel, strength: float) -> Path:
    """A random adapter on the first projection of every block, as PEFT writes one."""
    config = ridden.backend.model.config
    drawn = torch.Generator().manual_seed(0)
    heads = config.num_attention_heads * config.head_dim
    weights = dict[str, torch.Tensor]()
    for block in range(config.num_hidden_layers):
        name = f"base_model.model.model.layers.{block}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(8, config.hidden_size, generator=drawn)
        weights[f"{name}.lora_B.weight"] = strength * torch.randn(heads, 8, generator=drawn)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder
