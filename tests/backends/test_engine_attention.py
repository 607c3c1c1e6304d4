"""Whatever a model attends with, an engine's steps and the passes between them give its states."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pillion.backends.transformers import TransformersBackend
from pillion.core import Verdict
from pillion.probe import Artefact
from pillion.runtime import (
    ContinuousEngine,
    Finished,
    LanguageModel,
    PagedSettings,
    PromptRead,
    Request,
    TokenEvent,
)
from pillion.runtime.explanation import explain
from tiny_models import (
    full_states,
    make_artefact,
    offline,
    probs_of,
    random_ids,
    sizes,
    tiny_tokenizer,
)

SETTINGS = PagedSettings(page_tokens=4, cache_tokens=1024, max_chunk_tokens=32)
EXACT = 1e-4
SHARED = random_ids(20, seed=50)
ROWS = [random_ids(30, seed=1), [*SHARED, 3, 4], random_ids(9, seed=2), [*SHARED, 7]]
TEXT = "Why was this one told from that one?"


def config(kind: str) -> Any:
    """Every other layer of these has a window of 8 tokens, where the architecture has windows."""
    from transformers import AutoConfig

    common: dict[str, Any] = {**sizes(num_layers=4), "num_key_value_heads": 2, "head_dim": 8}
    own: dict[str, dict[str, Any]] = {
        "gemma2": {"attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8},
        "gpt_oss": {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "gemma3_text": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    }
    windows = {} if kind in ("llama", "qwen3") else {"sliding_window": 8}
    return AutoConfig.for_model(kind, **common, **windows, **own.get(kind, {}))


CASES = {
    "own caps": ("gemma2", None),
    "own sinks": ("gpt_oss", None),
    "own windows": ("granite_swa", None),
    "own default": ("vaultgemma", None),
    "eager where sdpa is default": ("llama", "eager"),
    "eager with norms of heads": ("qwen3", "eager"),
    "sdpa with windows": ("gemma3_text", "sdpa"),
    "sdpa": ("llama", "sdpa"),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    from transformers import AutoModelForCausalLM

    kind, attention = request.param
    chosen = {"attn_implementation": attention} if attention else {}
    model: Any = AutoModelForCausalLM.from_config(config(kind), **chosen)
    return TransformersBackend(model.eval(), tiny_tokenizer(), kind)


@pytest.fixture
def probe(backend: TransformersBackend) -> Artefact:
    return make_artefact("p", backend.identity)


def serve(
    backend: TransformersBackend, probe: Artefact, use: Callable[[ContinuousEngine], Any]
) -> Any:
    async def run() -> Any:
        engine = ContinuousEngine(backend, [probe], SETTINGS)
        await engine.start()
        try:
            return await use(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def error(got: dict[str, Verdict], wanted: torch.Tensor, probe: Artefact) -> float:
    return (probs_of(got["p"], probe) - wanted).abs().max().item()


def test_classify_beside_an_engine_is_what_the_model_alone_would_say(
    backend: TransformersBackend, probe: Artefact
) -> None:
    """With eager attention such passes ran without their masks: 0.04 alone was 0.90 in a batch."""
    wanted = [offline(probe, full_states(backend, row)) for row in ROWS]
    found = serve(backend, probe, lambda engine: engine.classify(ROWS))

    assert max(error(got, want, probe) for got, want in zip(found, wanted, strict=True)) < EXACT


def test_explain_beside_an_engine_is_what_the_model_alone_would_say(
    backend: TransformersBackend, probe: Artefact
) -> None:
    wanted = explain(LanguageModel(backend), probe, TEXT)
    found = serve(backend, probe, lambda engine: engine.explain(backend.encode(TEXT, "raw"), "p"))

    assert found.logits == pytest.approx(wanted.logits, abs=EXACT)
    assert found.contributions == pytest.approx(wanted.contributions, abs=EXACT)


def test_steps_of_an_engine_attend_as_the_model_alone(
    backend: TransformersBackend, probe: Artefact
) -> None:
    """transformers' paged attention forgot Gemma 2's cap: verdicts of prompts were off by 0.2."""

    async def ask(engine: ContinuousEngine, row: list[int]) -> list[Any]:
        return [event async for event in engine.submit(Request("r", tuple(row), 12))]

    async def use(engine: ContinuousEngine) -> list[list[Any]]:
        first = await asyncio.gather(*(ask(engine, row) for row in ROWS))
        return [*first, *[await ask(engine, row) for row in ROWS]]

    found = serve(backend, probe, use)
    for row, (prompt, *middle, last) in zip([*ROWS, *ROWS], found, strict=True):
        tokens = [event.token_id for event in middle if isinstance(event, TokenEvent)]
        states = full_states(backend, [*row, *tokens])
        read = len(row) + len(tokens) - 1
        assert isinstance(prompt, PromptRead) and isinstance(last, Finished)
        assert error(prompt.verdicts, offline(probe, states[:, : len(row)]), probe) < EXACT
        assert error(last.verdicts, offline(probe, states[:, len(row) : read]), probe) < EXACT


def test_after_an_engine_a_model_attends_as_before(
    backend: TransformersBackend, probe: Artefact
) -> None:
    before = backend.model.config._attn_implementation
    serve(backend, probe, lambda engine: engine.classify(ROWS[:1]))

    assert backend.model.config._attn_implementation == before
