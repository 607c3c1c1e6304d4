"""Classifying beside an engine: calls that wait run together, and each gets what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.errors import RunError, StateError
from pillion.runtime import LanguageModel
from pillion.runtime.chunked_passes import FIRST_TOKENS, ChunkedPasses
from pillion.runtime.classifier import RowClassifier
from tiny_models import make_artefact, random_ids

TEXTS = ["A short one.", "b", "A much longer one, of many more words than the others."]


class Counting(FakeBackend):
    """Counts the rows of every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[int] = []

    def forward(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        self.passes.append(len(token_ids))
        return super().forward(token_ids, *args, **kwargs)


@contextmanager
def gone() -> Iterator[None]:
    raise RunError("The engine has stopped.")
    yield


def test_calls_that_wait_for_the_same_probes_run_together() -> None:
    backend = Counting()
    one, two = (make_artefact(name, backend.identity, seed=i) for i, name in enumerate("ab"))
    rows = [backend.encode(text, "raw") for text in TEXTS]
    classifier = RowClassifier(ChunkedPasses(backend, nullcontext))

    async def ask() -> list[Any]:
        first = asyncio.create_task(classifier.classify(rows[:1], [one]))
        await asyncio.sleep(0)  # it runs alone: no other call was there
        calls = [([rows[1]], [one]), (rows, [two]), (rows[1:], [one])]
        return [await first, *await asyncio.gather(*(classifier.classify(*call) for call in calls))]

    alone, single, others, pair = asyncio.run(ask())
    assert backend.passes == [1, 3, 3]
    wanted = {name: LanguageModel(backend).score(TEXTS, [p], "raw") for name, p in
              (("a", one), ("b", two))}  # fmt: skip
    assert alone == wanted["a"][:1]
    for got, want in ((single + pair, [wanted["a"][1], *wanted["a"][1:]]), (others, wanted["b"])):
        for (verdict,), (right,) in zip(
            (v.values() for v in got), (v.values() for v in want), strict=True
        ):
            assert verdict.probs == pytest.approx(right.probs, abs=1e-6)
    assert classifier.passes.seconds > 0


def test_a_failure_is_told_to_those_whom_it_concerns_and_the_next_call_is_served() -> None:
    backend = FakeBackend()
    probe = make_artefact("p", backend.identity)
    rows = [backend.encode(text, "raw") for text in TEXTS]
    classifier = RowClassifier(ChunkedPasses(backend, nullcontext))
    with pytest.raises(RunError, match="has stopped"):
        asyncio.run(RowClassifier(ChunkedPasses(backend, gone)).classify(rows, [probe]))

    async def ask() -> None:
        backend.embeddings[rows[1][0]] = torch.nan
        with pytest.raises(StateError, match="not finite"):
            await classifier.classify(rows, [probe])
        backend.embeddings[rows[1][0]] = 1.0
        assert len(await classifier.classify(rows, [probe])) == 3

    asyncio.run(ask())


def test_an_error_of_the_model_ends_the_call_that_it_comes_from_and_no_other() -> None:
    """A row that the model could not run took the calls along that ran beside it."""

    class Failing(FakeBackend):
        def forward(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
            if (token_ids == 7).any():
                raise torch.OutOfMemoryError("no memory is left")
            return super().forward(token_ids, *args, **kwargs)

    backend = Failing()
    probe = make_artefact("p", backend.identity)
    classifier = RowClassifier(ChunkedPasses(backend, nullcontext))

    async def ask() -> list[Any]:
        calls = [classifier.classify([[one, 5, 6]], [probe]) for one in (3, 7, 4)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, failed, last = asyncio.run(ask())
    assert isinstance(failed, torch.OutOfMemoryError)
    for (got,), row in ((first, [3, 5, 6]), (last, [4, 5, 6])):
        (want,) = LanguageModel(backend).score_rows([row], [probe])
        assert got["p"].probs == pytest.approx(want["p"].probs, abs=1e-6)


def test_who_has_gone_does_not_keep_others_from_their_answer() -> None:
    backend = FakeBackend()
    probe = make_artefact("p", backend.identity)
    rows = [backend.encode(text, "raw") for text in TEXTS]
    classifier = RowClassifier(ChunkedPasses(backend, nullcontext))

    async def ask() -> None:
        calls = [asyncio.create_task(classifier.classify(rows, [probe])) for _ in range(3)]
        await asyncio.sleep(0)
        calls[0].cancel()
        calls[1].cancel()
        assert len(await calls[2]) == 3

    asyncio.run(ask())


def test_a_row_that_runs_in_pieces_is_read_whole_and_others_leave_early() -> None:
    """Pieces of a row go through all layers one after the other: it cannot leave half-way."""
    backend = FakeBackend()
    probe = make_artefact("p", backend.identity)
    read = {"depth": 1, "bands": ((0.5, 0.5),)}
    leaving = probe.revised(depths=(1,), exit={"reads": (read,), "found": {}})
    rows = [random_ids(FIRST_TOKENS + 40), random_ids(9, 1)]
    pieces = ChunkedPasses(backend, nullcontext, step_seconds=lambda: 1.0)
    found = asyncio.run(RowClassifier(pieces).classify(rows, [leaving]))
    model = LanguageModel(backend)
    whole, early = model.score_rows(rows, [probe]), model.score_rows(rows, [leaving])
    for got, want in zip(found, (whole[0], early[1]), strict=True):
        assert abs(got["p"].probs["yes"] - want["p"].probs["yes"]) < 1e-5
    assert abs(whole[1]["p"].probs["yes"] - early[1]["p"].probs["yes"]) > 1e-3
