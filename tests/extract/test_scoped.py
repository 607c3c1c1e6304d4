"""States of a scope's tokens: those of the whole conversation, at the scope's places."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chat_templates import chat_backend
from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.cache import read_spec
from pillion.core import Scope, Segment, Tokens, as_conversation
from pillion.extract import LiveSource, kept_states, pooled_states
from pillion.extract.scoped import kept_places
from tiny_models import distance, full_states, random_ids

SYSTEM = {"role": "system", "content": "The same long beginning of every row."}
TALKS = [
    [
        SYSTEM,
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day"},
        {"role": "user", "content": "And now the longer question?"},
    ],
    [SYSTEM, {"role": "user", "content": "Hello"}],
    [SYSTEM, {"role": "user", "content": "Hell"}, {"role": "assistant", "content": "An answer"}],
]


@pytest.fixture(params=["fake", "llama"])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "fake":
        return FakeBackend()
    return chat_backend()


@pytest.fixture
def rows(backend: Backend) -> list[Tokens]:
    return [backend.encode_chat(as_conversation(talk)) for talk in TALKS]


def layers_of(backend: Backend) -> tuple[int, ...]:
    return tuple(range(backend.identity.num_layers + 1))


@pytest.mark.parametrize("scope", ["last-user", "user", "system", "all"])
def test_a_live_pass_gives_the_states_at_the_places_of_the_scope(
    backend: Backend, rows: list[Tokens], scope: Scope
) -> None:
    source = LiveSource(backend, rows, layers_of(backend), scope)
    hidden, mask = source.read_batch([0, 1, 2])
    for place, row in enumerate(rows):
        wanted = full_states(backend, row)[:, kept_places(row, scope)]
        assert source.lengths[place] == wanted.shape[1] == int(mask[place].sum())
        assert distance(hidden[:, place, : wanted.shape[1]], wanted) < 1e-5


def test_states_on_disk_are_those_of_the_scope(
    backend: Backend, rows: list[Tokens], tmp_path: Path
) -> None:
    layers, said = layers_of(backend), list[str]()
    how = ("chat", "error")
    source = kept_states(
        backend, rows, layers, tmp_path / "some", *how, say=said.append, scope="user"
    )
    hidden, mask = source.read_batch([0, 2])
    for place, row in enumerate([rows[0], rows[2]]):
        wanted = full_states(backend, row)[:, kept_places(row, "user")]
        assert distance(hidden[:, place, : wanted.shape[1]], wanted) < 1e-5
        assert int(mask[place].sum()) == wanted.shape[1]
    source.reader.close()


def test_states_of_all_tokens_serve_every_scope(
    backend: Backend, rows: list[Tokens], tmp_path: Path
) -> None:
    layers, how = layers_of(backend), ("chat", "error")
    kept_states(backend, rows, layers, tmp_path, *how, say=lambda _: None).reader.close()
    said: list[str] = []
    source = kept_states(backend, rows, layers, tmp_path, *how, say=said.append, scope="last-user")
    assert said == []  # nothing is computed again
    hidden, mask = source.read_batch([0, 2])
    for place, row in enumerate([rows[0], rows[2]]):
        wanted = full_states(backend, row)[:, kept_places(row, "last-user")]
        assert distance(hidden[:, place, mask[place]], wanted) < 1e-5
    live = LiveSource(backend, rows, layers, "last-user")
    assert list(source.lengths) == list(live.lengths) and hidden.shape[2] == mask.sum(1).max()
    source.reader.close()


def test_a_cache_keeps_whose_words_its_tokens_are(
    backend: Backend, rows: list[Tokens], tmp_path: Path
) -> None:
    layers = layers_of(backend)
    kept_states(
        backend, rows, layers, tmp_path, "chat", "error", say=lambda _: None, scope="user"
    ).reader.close()
    spec = read_spec(tmp_path)
    assert spec is not None and spec.scope == "user"
    first = len("Hello")
    assert spec.segments[0] == (
        (0, first, "user", 1, "content"),
        (first, spec.lengths[0], "user", 3, "content"),
    )


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_pooled_states_are_of_the_scope(backend: Backend, rows: list[Tokens], pool: str) -> None:
    found = pooled_states(backend, rows, layers_of(backend), pool, scope="last-user")  # type: ignore[arg-type]
    for place, row in enumerate(rows):
        own = full_states(backend, row)[:, kept_places(row, "last-user")]
        assert distance(found[:, place], own.mean(1) if pool == "mean" else own[:, -1]) < 1e-5


def test_tokens_come_back_from_another_process_as_they_went() -> None:
    tokens = Tokens([1, 70_000, 3], [Segment(1, 3, "user", 0)])
    back = pickle.loads(pickle.dumps(tokens))
    assert back == tokens and back.segments == tokens.segments and isinstance(back, Tokens)
    assert len(pickle.dumps(Tokens(range(5000)))) < 4.1 * 5000 + 500


def test_rows_end_behind_the_last_token_that_is_read(rows: list[Tokens], backend: Backend) -> None:
    """The template's end of a turn was run for nothing."""
    seen: list[int] = []
    forward = backend.forward
    backend.forward = lambda ids, *rest, **more: (
        seen.append(ids.shape[1])
        or forward(  # type: ignore[method-assign]
            ids, *rest, **more
        )
    )
    LiveSource(backend, rows, (0,), "last-user").read_batch([1])
    assert seen == [rows[1].ranges("last-user")[0].stop]
    assert torch.is_inference_mode_enabled() is False


def test_a_live_batch_runs_each_beginning_once(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in contexts ran their contexts row by row where no states were kept on disk."""
    starts = [random_ids(120, seed) for seed in (1, 2)]
    rows = [[*starts[n % 2], *random_ids(5 + n, 10 + n)] for n in range(8)]
    source = LiveSource(backend, rows, layers_of(backend))
    alone = [source.read_batch([n])[0][:, 0] for n in range(8)]
    seen, forward = list[int](), backend.forward

    def counted(ids: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(ids.numel())
        return forward(ids, *rest, **more)

    monkeypatch.setattr(backend, "forward", counted)
    hidden, mask = source.read_batch(range(8))
    assert sum(seen) < 2 * 120 + 8 * 14
    for n, wanted in enumerate(alone):
        assert distance(hidden[:, n, mask[n]], wanted) < 1e-5
