"""Scoring and classifying stop at the highest layer that is read, and say the same."""

from __future__ import annotations

import asyncio

import pytest
import torch

from pillion.backends.transformers import TransformersBackend
from pillion.runtime import ContinuousEngine, LanguageModel, PagedSettings
from tiny_models import Recorder, make_artefact, probs_of, tiny_model, tiny_tokenizer

TEXTS = ["A short one.", "b", "A much longer one, of many more words than the others."]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("layers", [(0,), (0, 1), (2,)], ids=str)
def test_verdicts_of_an_early_exit_equal_those_of_the_whole_pass(
    kind: str, layers: tuple[int, ...]
) -> None:
    backend, ran = TransformersBackend(tiny_model(kind), tiny_tokenizer()), list[int]()
    probe = make_artefact("p", backend.identity, layers=layers)
    whole = make_artefact("whole", backend.identity)  # reads the last layer: no early exit
    for number, block in enumerate(backend.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    lm = LanguageModel(backend)
    wanted = lm.score(TEXTS, [probe, whole], "raw")
    assert set(ran) == set(range(len(backend.blocks)))

    async def classify() -> list[dict[str, object]]:
        engine = ContinuousEngine(backend, [probe, whole], PagedSettings(cache_tokens=64))
        await engine.start()
        ran.clear()  # what the engine's self-test ran
        try:
            return list(
                await engine.classify([backend.encode(text, "raw") for text in TEXTS], ["p"])
            )
        finally:
            await engine.close()

    lm.score(TEXTS[:1], [probe], "raw")  # at a model's first early exit it is seen whether it loops
    for run in (lambda: lm.score(TEXTS, [probe], "raw"), lambda: asyncio.run(classify())):
        ran.clear()
        found = run()
        assert sorted(set(ran)) == list(range(max(layers)))
        for got, want in zip(found, wanted, strict=True):
            one, two = (probs_of(v["p"], probe) for v in (got, want))
            assert (one - two).abs().max() < 1e-6


def test_the_try_whether_a_models_blocks_loop_is_shown_to_nobody() -> None:
    """A reading took it for its own pass, and for the batch that it had been told of."""
    backend, recorder = TransformersBackend(tiny_model()), Recorder()
    with backend.watch(recorder, [0]):
        backend.forward(torch.tensor([[1, 2, 3]]), torch.ones(1, 3).bool())

    assert [mask.shape for mask in recorder.masks] == [(1, 3)]
