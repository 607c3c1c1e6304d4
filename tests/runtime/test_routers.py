"""Routers of a mixture of experts are read like layers, exactly, by every way; or refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.data import Rows
from pillion.errors import ConfigError, MismatchError, StateError
from pillion.fit import FitSettings, fit
from pillion.probe import Artefact
from pillion.probe.task import probabilities
from pillion.runtime import (
    ContinuousEngine,
    LanguageModel,
    PagedSettings,
    PlainEngine,
    Request,
    TokenEvent,
    attach,
    pad_batch,
)
from pillion.train import ProbeConfig, TrainSettings
from tiny_models import Recorder, make_artefact, random_ids, sizes, tiny_model, tiny_tokenizer

EXPERTS = 4


def qwen3_moe() -> Any:
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(
        **sizes(num_layers=3) | {"moe_intermediate_size": 16, "mlp_only_layers": [1]},
        num_key_value_heads=2,
        head_dim=8,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
    )


def mixtral() -> Any:
    from transformers import MixtralConfig

    own = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    return MixtralConfig(**sizes(num_layers=3) | own)


def olmoe() -> Any:
    from transformers import OlmoeConfig

    own = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    return OlmoeConfig(**sizes(num_layers=3) | own)


def gpt_oss() -> Any:
    from transformers import GptOssConfig

    own = {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    own |= {"head_dim": 8, "sliding_window": 640, "rope_parameters": {"rope_type": "default"}}
    return GptOssConfig(**sizes(num_layers=3) | own)


MIXTURES: dict[str, Callable[[], Any]] = {
    one.__name__: one for one in (qwen3_moe, mixtral, olmoe, gpt_oss)
}
PROBES = ("gate", "concat", "mha-causal")


@pytest.fixture(params=MIXTURES)
def backend(request: pytest.FixtureRequest) -> TransformersBackend:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(MIXTURES[request.param]()).eval()
        for name, weight in model.named_parameters():
            if "gate.weight" in name or "router" in name:  # some begin at zero
                torch.nn.init.normal_(weight, std=0.5)
    return TransformersBackend(model, tiny_tokenizer(), request.param)


def layers_of(backend: TransformersBackend) -> tuple[int, ...]:
    identity = backend.identity
    return tuple(range(identity.num_layers + 1 + identity.num_routers))


def states(backend: TransformersBackend, ids: Sequence[int]) -> Tensor:
    """[layer, token, dim] of a row alone, routers behind the layers."""
    recorder, layers = Recorder(), layers_of(backend)
    with backend.watch(recorder, layers):
        backend.forward(torch.tensor([list(ids)]), torch.ones(1, len(ids)).bool())
    return torch.stack([recorder.passes[0][layer][0] for layer in layers])


def wanted(artefact: Artefact, hidden: Tensor) -> list[float]:
    """By the plain definition."""
    some = hidden[list(artefact.card.layers)][:, None].clone()
    with torch.no_grad():
        logits = artefact.network.eval()(some, torch.ones(1, some.shape[2]).bool())
    return probabilities(artefact.card.task, logits)[0].tolist()


def probes_of(backend: TransformersBackend) -> list[Artefact]:
    every = layers_of(backend)
    last = backend.identity.num_layers
    several = [make_artefact(name, backend.identity, name, "multiclass", every) for name in PROBES]
    alone = make_artefact("routers", backend.identity, "gate", "multiclass", every[last + 1 :])
    return [*several, alone, make_artefact("plain", backend.identity, task="multiclass")]


def close(verdict: Any, artefact: Artefact, hidden: Tensor) -> None:
    assert list(verdict.probs.values()) == pytest.approx(wanted(artefact, hidden), abs=2e-5)


def test_a_router_is_the_layer_behind_the_last_with_its_logits_in_front(
    backend: TransformersBackend,
) -> None:
    ids = torch.tensor([random_ids(9)])
    with torch.no_grad():
        logits = backend.model(ids, output_router_logits=True).router_logits
    found = states(backend, ids[0].tolist())[backend.identity.num_layers + 1 :]

    assert len(found) == len(logits) == backend.identity.num_routers
    assert backend.identity.num_routers == (2 if backend.identity.name == "qwen3_moe" else 3)
    for state, own in zip(found, logits, strict=True):
        torch.testing.assert_close(state[:, :EXPERTS], own.reshape(9, EXPERTS).float())
        assert not state[:, EXPERTS:].any() and state.std() > 0.01


def test_verdicts_are_the_same_alone_in_a_batch_and_while_an_answer_is_generated(
    backend: TransformersBackend,
) -> None:
    probes = probes_of(backend)
    rows = [random_ids(count, seed=count) for count in (3, 11, 6)]
    ids, mask = pad_batch(rows)
    with attach(backend.model, probes) as reading:
        backend.model(input_ids=ids, attention_mask=mask.long())
        found = reading.verdicts()
    for row, verdicts in zip(rows, found, strict=True):
        hidden = states(backend, row)
        for artefact in probes:
            close(verdicts[artefact.name], artefact, hidden)
    with attach(backend.model, probes) as reading:
        out = backend.model.generate(torch.tensor([rows[1]]), max_new_tokens=5, do_sample=False)
        (verdicts,) = reading.verdicts()
    hidden = states(backend, out[0, :-1].tolist())
    for artefact in probes:
        close(verdicts[artefact.name], artefact, hidden)


@pytest.mark.parametrize("kind", [PlainEngine, ContinuousEngine])
def test_both_engines_read_routers_exactly_in_chunks_and_behind_a_shared_prefix(
    backend: TransformersBackend, kind: Any
) -> None:
    probes = probes_of(backend)
    settings = PagedSettings(page_tokens=4, cache_tokens=256, max_chunk_tokens=8)
    own = (settings,) if kind is ContinuousEngine else ()
    engine = kind(backend, probes, *own)
    prompt = random_ids(19)

    async def use() -> tuple[Any, Any]:
        await engine.start()
        try:
            events = [e async for e in engine.submit(Request("a", tuple(prompt), 4))]
            again = await engine.classify([prompt, [*prompt[:12], *random_ids(5, seed=4)]])
            return events, again
        finally:
            await engine.close()

    events, again = asyncio.run(use())
    for row, verdicts in zip((prompt, [*prompt[:12], *random_ids(5, seed=4)]), again, strict=True):
        hidden = states(backend, row)
        for artefact in probes:
            close(verdicts[artefact.name], artefact, hidden)
    told = [event for event in events if isinstance(event, TokenEvent)]
    hidden = states(backend, [*prompt, *(event.token_id for event in told)])
    for artefact in probes:
        close(events[0].verdicts[artefact.name], artefact, hidden[:, : len(prompt)])
        for count, event in enumerate(told[1:], 1):  # of the answer's tokens before this one
            answer = hidden[:, len(prompt) : len(prompt) + count]
            close(event.verdicts[artefact.name], artefact, answer)


def test_a_probe_of_routers_is_trained_and_refused_by_a_dense_model(tmp_path: Any) -> None:
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = mixtral()
        model = LanguageModel(
            TransformersBackend(
                AutoModelForCausalLM.from_config(config).eval(), tiny_tokenizer(), "mixture"
            )
        )
    texts = [f"{'good' if i % 2 else 'bad'} {i}" for i in range(24)]
    rows = Rows.of(texts, ["ab"[i % 2] for i in range(24)], "memory")
    how = FitSettings(template="raw", read="router", layers=(0, 2), train=TrainSettings(epochs=1))
    (fitted,) = fit(model, rows, None, [ProbeConfig()], tmp_path / "w", how, say=lambda _: None)
    card = fitted.artefact.card
    assert card.layers == (0, 2, 4, 5, 6) and card.model.num_routers == 3
    fitted.artefact.save(tmp_path / "probe")
    (found,) = model.score(["good 3"], [Artefact.load(tmp_path / "probe")])
    assert set(found) == {"probe"}
    with pytest.raises(MismatchError, match="reads routers of a mixture of experts, 3 in all"):
        fitted.artefact.check(TransformersBackend(tiny_model(), None, "dense").identity)
    plain = make_artefact("plain", model.backend.identity)
    plain.check(replace(model.backend.identity, num_routers=0))  # what it reads is there


def test_routers_of_a_dense_model_are_refused_in_a_sentence(tmp_path: Any) -> None:
    rows = Rows.of(["a", "b", "c", "d"], ["x", "y", "x", "y"], "memory")
    with pytest.raises(ConfigError, match="shows no routers of a mixture of experts") as error:
        fit(
            LanguageModel(FakeBackend()),
            rows,
            None,
            [ProbeConfig()],
            tmp_path,
            FitSettings(read="router"),
        )
    assert "\n" not in str(error.value) and "--" not in str(error.value)


def test_a_router_that_something_hides_is_an_error_and_no_number() -> None:
    backend = TransformersBackend(tiny_model("mixtral"), None, "tiny")
    block = backend.blocks[1].mlp  # pyright: ignore[reportAttributeAccessIssue]
    block.forward = lambda hidden: hidden  # as a fused kernel would
    with pytest.raises(StateError, match=r"read as layers \[5\] gave nothing in this pass"):
        states(backend, random_ids(4))
