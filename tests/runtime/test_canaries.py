"""Canaries: a probe that says something else than at training is refused, whatever differs."""

from __future__ import annotations

import asyncio
import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from chat_templates import VOCAB, chat_tokenizer
from pillion.backends.fake import FakeBackend
from pillion.backends.paged import PagedSettings
from pillion.backends.transformers import TransformersBackend
from pillion.core import SCOPES, Scope, Turn
from pillion.errors import MismatchError
from pillion.probe import Artefact
from pillion.probe.calibration import Affine, Isotonic
from pillion.probe.canaries import Canaries, candidates, difference
from pillion.runtime import (
    ContinuousEngine,
    Engine,
    LanguageModel,
    PlainEngine,
    check_engine,
    with_canaries,
)
from tiny_models import make_artefact, tiny_model


def backend_of(model: Any, tokenizer: Any = None) -> TransformersBackend:
    return TransformersBackend(model, tokenizer or chat_tokenizer("chatml"), "tiny")


def trained(model: LanguageModel, scope: str = "last-user", **facts: Any) -> Artefact:
    template = facts.pop("template", "chat")
    probe = make_artefact("p", model.backend.identity, template=template, scope=scope, **facts)
    (kept,) = with_canaries(model, [probe])
    return kept


def loosely(probe: Artefact, backend: TransformersBackend) -> Artefact:
    """The probe as if its fingerprints were those of another model."""
    return probe.revised(model=backend.identity)


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(backend_of(tiny_model(vocab=VOCAB)))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_probe_of_any_scope_and_task_keeps_eight_and_agrees_with_itself(
    model: LanguageModel, scope: Scope, task: str, tmp_path: Path
) -> None:
    probe = trained(model, scope, task=task)
    probe.save(tmp_path / "p")
    found = model.check(tmp_path / "p")

    assert probe.card.canaries is not None
    assert len(probe.card.canaries.texts) == 8
    assert found.difference is not None and found.difference < 1e-4 < found.tolerance


def test_a_template_that_writes_the_date_is_the_same_one_on_another_day(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Llama 3 writes `26 Jul 2024`: a server started the day after training refused its probes."""
    tokenizer = chat_tokenizer("chatml")
    today = "{{ strftime_now('%d %b %Y') }}"
    tokenizer.chat_template = today + tokenizer.chat_template
    model = LanguageModel(backend_of(tiny_model(vocab=VOCAB), tokenizer))
    probe = trained(model)
    plain = model.backend.encode_chat((Turn("user", "hello"),))

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2031, 3, 1, 12, tzinfo=tz)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Tomorrow)
    assert model.backend.encode_chat((Turn("user", "hello"),)) != plain
    assert model.check(probe).difference == pytest.approx(0, abs=1e-5)


def test_a_probe_of_raw_texts_keeps_eight(model: LanguageModel) -> None:
    probe = trained(model, "all", template="raw")
    assert len(probe.card.canaries.texts) == 8  # type: ignore[union-attr]
    assert model.check(probe).note is None


def test_every_scope_has_eight_texts_that_hold_it() -> None:
    for scope in SCOPES:
        texts = candidates(scope, is_chat=True)
        assert len({str(text) for text in texts}) >= 8
        role = {"last-user": "user", "response": "assistant", "all": "user"}.get(scope, scope)
        assert all(any(turn.role == role for turn in text) for text in texts)


def test_a_template_that_refuses_a_role_leaves_texts_without_it() -> None:
    tokenizer = chat_tokenizer("chatml")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    model = LanguageModel(backend_of(tiny_model(vocab=VOCAB), tokenizer))
    canaries = trained(model).card.canaries

    assert canaries is not None and len(canaries.texts) == 8
    assert all(one.turns[0].role != "system" for one in canaries.texts)
    assert trained(model, "system").card.canaries is None


@pytest.mark.parametrize(
    "calibration",
    [
        Affine(method="platt", scales=(0.5,), offsets=(-1.0,)),
        Isotonic(logits=((-4.0, 0.0, 4.0),), probs=((0.1, 0.4, 0.9),)),
    ],
    ids=["platt", "isotonic"],
)
def test_calibration_that_comes_later_changes_nothing(
    model: LanguageModel, calibration: Any
) -> None:
    probe = trained(model).revised(calibration=calibration)
    found = model.check(probe)
    assert found.difference is not None and found.difference <= found.tolerance


def test_a_difference_is_that_of_the_logits() -> None:
    def off(task: Any, logits: tuple[float, ...], shift: float, **facts: Any) -> float:
        moved = torch.tensor([[logits[0] + shift, *logits[1:]]])
        probs = moved.softmax(-1) if task == "multiclass" else moved.sigmoid()
        return difference(task, facts.get("calibration"), logits, probs[0])

    for shift in (0.0, 0.01, 0.3, 2.0):
        assert off("binary", (0.5,), shift) == pytest.approx(shift, rel=0.25, abs=1e-5)
        assert off("multilabel", (0.5, -1.0), -shift) == pytest.approx(shift, rel=0.25, abs=1e-5)
        assert off("multiclass", (-1.0, -2.0, -0.7), shift) <= shift * 1.25 + 1e-5
        assert off("multiclass", (-1.0, -2.0, -0.7), shift) >= shift / 4


def changed_weights(model: Any) -> Any:
    model.model.layers[1].mlp.up_proj.weight.data *= 1.5
    return model


def changed_attention(model: Any) -> Any:
    """One that forgets the scale, as a wrong kernel would."""
    for layer in model.model.layers:
        layer.self_attn.scaling *= 3
    return model


def rounded(model: Any) -> Any:
    """Weights of four bits."""
    for weight in model.parameters():
        scale = weight.data.abs().max() / 7
        weight.data = (weight.data / scale).round() * scale
    return model


@pytest.mark.parametrize("change", [changed_weights, changed_attention, rounded])
def test_what_fingerprints_cannot_see_is_refused_by_name_and_size(
    model: LanguageModel, change: Any
) -> None:
    """An attention kernel, a cache or weights of fewer bits gave other verdicts without a word."""
    probe = trained(model)
    other = backend_of(change(copy.deepcopy(model.backend.model)))  # type: ignore[attr-defined]
    with pytest.raises(
        MismatchError, match=r"'p' does not say here .* off, by up to [\d.e+]+ in the logits, where"
    ):
        LanguageModel(other).check(loosely(probe, other))


def test_another_template_or_tokenizer_is_refused(model: LanguageModel) -> None:
    probe = trained(model)
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = "Say what follows. " + tokenizer.chat_template
    other = backend_of(model.backend.model, tokenizer)  # type: ignore[attr-defined]
    with pytest.raises(MismatchError, match="does not say here"):
        LanguageModel(other).check(loosely(probe, other))


def test_a_text_that_cannot_be_read_here_is_refused(model: LanguageModel) -> None:
    probe = trained(model, "system")
    tokenizer = chat_tokenizer("chatml")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    other = backend_of(model.backend.model, tokenizer)  # type: ignore[attr-defined]
    with pytest.raises(MismatchError, match="Canary text 1 of probe 'p' cannot be read here"):
        LanguageModel(other).check(loosely(probe, other))


def test_a_card_from_before_canaries_is_read_with_a_note(model: LanguageModel) -> None:
    probe = make_artefact("p", model.backend.identity, template="chat")
    found = model.check(probe)
    assert found.difference is None
    assert "no canaries on its card" in str(found.note)


def test_a_wider_dtype_has_the_narrower_ones_tolerance(model: LanguageModel) -> None:
    canaries = trained(model).card.canaries
    assert canaries is not None and canaries.dtype == "float32"
    assert canaries.tolerance("float32") < canaries.tolerance("float16")
    half = Canaries(dtype="bfloat16", texts=canaries.texts)
    assert half.tolerance("float32") == canaries.tolerance("bfloat16")


def engines(probes: list[Artefact]) -> list[Engine]:
    sizes = PagedSettings(page_tokens=8, cache_tokens=8192, max_chunk_tokens=32, max_requests=4)
    return [
        PlainEngine(backend_of(tiny_model(vocab=VOCAB)), probes),
        ContinuousEngine(backend_of(tiny_model(vocab=VOCAB)), probes, sizes),
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["plain", "continuous"])
def test_a_serving_engine_runs_them_as_requests(model: LanguageModel, which: int) -> None:
    probes = [
        trained(model, scope).revised()  # each under a name of its own
        for scope in ("last-user", "response")
    ]
    probes = [Artefact(one.card.scope, one.card, one.network) for one in probes]

    async def run(spoil: bool) -> Any:
        engine = engines(probes)[which]
        await engine.start()
        try:
            if spoil:
                changed_weights(engine.backend.model)  # type: ignore[attr-defined]
            return await asyncio.wait_for(check_engine(engine), 120)
        finally:
            await engine.close()

    found = asyncio.run(run(spoil=False))
    assert [one.probe for one in found] == ["last-user", "response"]
    assert all(one.difference < 1e-3 < one.tolerance for one in found)
    with pytest.raises(MismatchError, match="'last-user' does not say here"):
        asyncio.run(run(spoil=True))


def test_the_shipped_engine_without_weights_keeps_them_too() -> None:
    model = LanguageModel(FakeBackend())
    assert model.check(trained(model)).note is None
