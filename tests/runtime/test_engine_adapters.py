"""Adapters that change while an engine lives: nothing is answered or read with others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

from pillion.backends.adapters import Unchanged
from pillion.backends.transformers import TransformersBackend
from pillion.core import PromptRead
from pillion.errors import MismatchError, PillionError
from pillion.runtime import ContinuousEngine, Engine, PagedSettings, PlainEngine, Request
from tiny_models import make_artefact, random_ids, tiny_model, tiny_tokenizer

SIZES = PagedSettings(page_tokens=4, cache_tokens=512, max_chunk_tokens=64, max_requests=8)
IDS = tuple(random_ids(13))
OTHERS = "runs with adapters two, and had adapters one"

both_engines = pytest.mark.parametrize("kind", [PlainEngine, ContinuousEngine])


def lora(**others: Any) -> LoraConfig:
    facts = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return LoraConfig(**facts, init_lora_weights=False, **others)


@pytest.fixture
def model() -> Any:
    """A tiny model with two adapters, of which `one` is active."""
    wrapped = get_peft_model(tiny_model(), lora(), adapter_name="one")
    wrapped.add_adapter("two", lora())
    return wrapped.eval()


def run(model: Any, kind: Any, use: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
    backend = TransformersBackend(model, tiny_tokenizer(), "tiny")
    probes = [make_artefact("p", backend.identity)]
    sizes = [SIZES] if kind is ContinuousEngine else []
    engine = kind(backend, probes, *sizes)

    async def inside() -> None:
        await engine.start()
        try:
            await asyncio.wait_for(use(engine), 120)
        finally:
            await engine.close()

    asyncio.run(inside())


async def answered(engine: Engine, ids: tuple[int, ...] = IDS) -> list[Any]:
    return [event async for event in engine.submit(Request("r", ids, 4))]


def score(events: list[Any]) -> float:
    (read,) = [event for event in events if isinstance(event, PromptRead)]
    return read.verdicts["p"].probs["yes"]


@both_engines
def test_an_engine_whose_adapters_changed_refuses_and_goes_on_with_those_it_had(
    model: Any, kind: Any
) -> None:
    """Engines answered with the other adapters, and their verdicts were of another model."""

    async def use(engine: Engine) -> None:
        wanted = score(await answered(engine))
        (read,) = await engine.classify([IDS])
        model.set_adapter("two")
        for call in (answered(engine), answered(engine, IDS[:5]), engine.classify([IDS])):
            with pytest.raises(PillionError, match=OTHERS):
                await call
        with pytest.raises(PillionError, match=OTHERS):
            await engine.set_probes(list(engine.probes.values()))
        assert engine.failure is None
        model.set_adapter("one")
        assert score(await answered(engine)) == pytest.approx(wanted, abs=1e-5)
        (again,) = await engine.classify([IDS])
        assert again["p"].probs["yes"] == pytest.approx(read["p"].probs["yes"], abs=1e-5)

    run(model, kind, use)


@both_engines
def test_answers_on_their_way_end_when_the_adapters_change(model: Any, kind: Any) -> None:
    async def use(engine: Engine) -> None:
        streams = [engine.submit(Request(f"r{i}", (*IDS, i), 200)) for i in range(3)]
        for stream in streams:
            await anext(stream)
        model.set_adapter("two")
        for stream in streams:
            with pytest.raises(PillionError, match=OTHERS):
                async for _ in stream:
                    pass
        model.set_adapter("one")
        assert len(await answered(engine)) > 1

    run(model, kind, use)


def test_a_step_in_which_the_adapters_change_tells_nothing_and_leaves_nothing_in_the_cache(
    model: Any,
) -> None:
    """The pages of such a step are of neither model; later prompts would begin with them."""

    async def use(engine: Engine) -> None:
        alone = score(await answered(engine, IDS[::-1]))
        backend = engine.backend  # type: ignore[attr-defined]

        def change(*_: Any) -> None:
            handle.remove()
            model.set_adapter("two")

        handle = backend.blocks[1].register_forward_pre_hook(change)
        with pytest.raises(PillionError, match=OTHERS):
            await answered(engine)
        model.set_adapter("one")
        events = await answered(engine)
        (read,) = [event for event in events if isinstance(event, PromptRead)]
        assert read.cached_tokens == 0
        (wanted,) = await engine.classify([IDS])
        assert score(events) == pytest.approx(wanted["p"].probs["yes"], abs=1e-5)
        assert score(await answered(engine, IDS[::-1])) == pytest.approx(alone, abs=1e-5)

    run(model, ContinuousEngine, use)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "chosen": lambda model: model.set_adapter("two"),
    "disabled": lambda model: model.base_model.disable_adapter_layers(),
    "merged": lambda model: model.merge_adapter(),
    "scaled": lambda model: layer_of(model).scale_layer(0.5),
    "set": lambda model: layer_of(model).scaling.update(one=3.0),
    "injected": lambda model: inject_adapter_in_model(
        lora(layers_to_transform=[1]), model.get_base_model(), adapter_name="late"
    ),
}


def layer_of(model: Any) -> Any:
    return model.get_base_model().model.layers[1].self_attn.q_proj


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_a_glance_sees_whatever_decides_which_adapters_take_part(model: Any, change: str) -> None:
    unchanged = Unchanged(model)
    unchanged()
    CHANGES[change](model)
    with pytest.raises(MismatchError, match=r"The model runs with .*, and had adapters one when"):
        unchanged()


def test_a_glance_sees_the_first_adapter_of_a_plain_model() -> None:
    plain = tiny_model()
    unchanged = Unchanged(plain)
    inject_adapter_in_model(lora(), plain, adapter_name="late")
    with pytest.raises(MismatchError, match="runs with adapters late, and had no adapter"):
        unchanged()


def test_what_changes_no_pass_is_no_change(model: Any) -> None:
    unchanged = Unchanged(model)
    model.add_adapter("three", lora())
    with torch.no_grad():
        model.set_adapter("two")
        model.set_adapter("one")
    unchanged()
    unchanged()
