"""What extraction leaves on disk, and how an interrupted one is finished."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pillion.backends import Backend
from pillion.backends.fake import FakeBackend
from pillion.backends.transformers import TransformersBackend
from pillion.cache import CacheReader, CacheSpec
from pillion.errors import Interrupted, StateError, StorageError
from pillion.extract import cache_key, cache_spec, extract, fill, size_sentence
from tiny_models import distance, full_states, random_ids, tiny_model

TEXTS = ["a", "bb bb", "a longer text than the others", "x" * 40, "yes", "no, not at all"]
LAYERS = (0, 2, 3)


class StoppingBackend(FakeBackend):
    """Behaves as if Ctrl-C were pressed in its n-th pass."""

    def __init__(self, passes: int) -> None:
        super().__init__()
        self.passes = passes

    def forward(self, *args: Any, **keywords: Any) -> Tensor | None:
        self.passes -= 1
        if self.passes < 0:
            raise KeyboardInterrupt
        return super().forward(*args, **keywords)


@pytest.fixture
def rows() -> list[list[int]]:
    backend = FakeBackend()
    return [backend.encode(text, "raw") for text in TEXTS]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard holds two or three of the rows."""

    def small(*arguments: Any) -> CacheSpec:
        spec = cache_spec(*arguments)
        return CacheSpec(spec.key, spec.layers, spec.dim, spec.dtype, spec.lengths, 8000)

    monkeypatch.setattr(fill, "cache_spec", small)


def passes_of(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Rows and tokens of every pass that the backend runs from now on."""
    run: list[tuple[int, ...]] = []
    forward = backend.forward

    def counted(ids: Tensor, *rest: Any, **keywords: Any) -> Tensor | None:
        run.append(tuple(ids.shape))
        return forward(ids, *rest, **keywords)

    monkeypatch.setattr(backend, "forward", counted)
    return run


def alone(row: list[int], layer: int) -> Tensor:
    """The reference: this row by itself, seen by a watcher of its own."""
    backend, seen = FakeBackend(), {}

    class Watcher:
        def start(self, step: Any) -> None: ...
        def end(self, cache: Any) -> None: ...
        def move(self, cache: Any, rows: Any) -> None: ...
        def see(self, layer: int, hidden: Tensor) -> None:
            seen[layer] = hidden[0].clone()

    with backend.watch(Watcher(), [layer]):
        backend.forward(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))
    return seen[layer]


def test_every_row_holds_the_states_that_it_has_alone(
    tmp_path: Path, rows: list[list[int]], small_shards: None
) -> None:
    with extract(FakeBackend(), rows, LAYERS, tmp_path / "cache", "key") as reader:
        assert len(reader.spec.shards) > 2
        for row_id, row in enumerate(rows):
            for place, layer in enumerate(LAYERS):
                torch.testing.assert_close(reader.read(row_id)[place], alone(row, layer))


@pytest.mark.parametrize("top", [1, 2, None])
@pytest.mark.parametrize("kind", ["fake", "llama", "qwen3", "gpt2", "mixtral"])
def test_a_beginning_that_rows_share_is_run_once_and_changes_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, top: int | None
) -> None:
    backend = FakeBackend() if kind == "fake" else TransformersBackend(tiny_model(kind))
    opening = random_ids(20)
    rows = [[*opening, *random_ids(tokens, seed=tokens)] for tokens in (1, 9, 4)]
    layers = range((top or backend.identity.num_layers) + 1)
    run = passes_of(backend, monkeypatch)
    with extract(backend, rows, layers, tmp_path / "cache", "key") as cache:
        assert run[1:] == [
            (1, 20),
            (3, 9),
        ]  # first a sample, to know makers by
        for row_id, row in enumerate(rows):
            assert distance(cache.read(row_id), full_states(backend, row)[layers]) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_embeddings_alone_know_their_places_behind_a_shared_beginning(
    tmp_path: Path, kind: str
) -> None:
    """No block runs, so a KV cache would stay empty and places would count from 0 again."""
    backend = TransformersBackend(tiny_model(kind))
    rows = [[*random_ids(20), token] for token in (30, 40)]
    with extract(backend, rows, (0,), tmp_path / "cache", "key") as cache:
        assert distance(cache.read(1), full_states(backend, rows[1])[[0]]) < 1e-6


def test_rows_behind_one_system_prompt_run_together_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend()
    two = [[*random_ids(60, seed=seed)] for seed in (1, 2)]
    rows = [[*two[n % 2], *random_ids(3 + n, seed=9 + n)] for n in range(8)]
    run = passes_of(backend, monkeypatch)
    with extract(backend, rows, LAYERS, tmp_path / "cache", "key") as cache:
        assert sorted(run[1:]) == [(1, 60), (1, 60), (4, 9), (4, 10)]
        for row_id, row in enumerate(rows):
            assert distance(cache.read(row_id), full_states(backend, row)[list(LAYERS)]) < 1e-5


def test_a_model_whose_caches_cannot_be_copied_runs_every_row_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows behind a long beginning, many for one pass, would otherwise run in a single batch."""
    backend = FakeBackend()
    monkeypatch.setattr(backend, "fork", lambda *_: None)
    rows = [[*random_ids(400), n] for n in range(12)]
    run = passes_of(backend, monkeypatch)
    with extract(backend, rows, LAYERS, tmp_path / "cache", "key") as cache:
        assert max(rows * tokens for rows, tokens in run) <= 2048
        assert distance(cache.read(11), full_states(backend, rows[11])[list(LAYERS)]) < 1e-5


def test_rows_without_tokens_stay_empty(tmp_path: Path, rows: list[list[int]]) -> None:
    with extract(FakeBackend(), [[], *rows, []], LAYERS, tmp_path / "cache", "key") as reader:
        assert reader.read(0).shape == (3, 0, 16)
        torch.testing.assert_close(reader.read(1)[1], alone(rows[0], 2))


def test_an_interrupted_extraction_is_finished_by_the_same_call(
    tmp_path: Path, rows: list[list[int]], small_shards: None
) -> None:
    with pytest.raises(Interrupted, match="run the same command again"):
        extract(StoppingBackend(passes=2), rows, LAYERS, tmp_path / "cache", "key")
    with pytest.raises(StorageError, match="incomplete"):
        CacheReader(tmp_path / "cache")
    kept = {path.name for path in (tmp_path / "cache").glob("*.safetensors")}
    assert kept
    done: list[int] = []

    def note(stage: str, done_tokens: int, total_tokens: int, metric: float | None = None) -> None:
        done.append(done_tokens)

    with extract(FakeBackend(), rows, LAYERS, tmp_path / "cache", "key", note) as reader:
        torch.testing.assert_close(reader.read(3)[2], alone(rows[3], 3))
    assert done[0] > len(rows[0])
    assert done[-1] == sum(map(len, rows))


def test_what_lies_there_whole_is_not_computed_again(tmp_path: Path, rows: list[list[int]]) -> None:
    extract(FakeBackend(), rows, LAYERS, tmp_path / "cache", "key").close()
    with extract(StoppingBackend(passes=0), rows, LAYERS, tmp_path / "cache", "key") as reader:
        assert len(reader) == len(rows)


def test_a_state_that_is_not_finite_is_named(tmp_path: Path, rows: list[list[int]]) -> None:
    backend = FakeBackend()
    backend.embeddings[ord("l")] = torch.nan
    with pytest.raises(StateError, match="row 2, token 2, layer 0"):
        extract(backend, rows, LAYERS, tmp_path / "cache", "key")


def test_no_hook_is_left_behind(tmp_path: Path, rows: list[list[int]]) -> None:
    backend = FakeBackend()
    extract(backend, rows, LAYERS, tmp_path / "cache", "key").close()
    assert not backend._passes.watched


def test_the_key_changes_with_everything_that_states_depend_on(rows: list[list[int]]) -> None:
    one, other = FakeBackend().identity, FakeBackend(seed=1).identity
    keys = {
        cache_key(one, "raw", "error", rows),
        cache_key(other, "raw", "error", rows),
        cache_key(one, "chat", "error", rows),
        cache_key(one, "raw", "truncate-head", rows),
        cache_key(one, "raw", "error", rows[::-1]),
        cache_key(one, "raw", "error", [*rows, []]),
        cache_key(one, "raw", "error", [rows[0] + rows[1], [], *rows[2:]]),
    }
    assert len(keys) == 7
    assert cache_key(one, "raw", "error", rows) in keys


def test_the_size_is_said_in_a_sentence(rows: list[list[int]]) -> None:
    spec = cache_spec(FakeBackend().identity, LAYERS, "key", rows)
    assert size_sentence(spec) == (
        "6 rows, 92 tokens, 3 layers x 16 float32: 0.2 KB a token, 0.02 MB on disk."
    )
    large = replace(spec, lengths=(100_000,) * 10)
    assert size_sentence(large).endswith("0.19 GB on disk.")
