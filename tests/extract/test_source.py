"""Sources of hidden states: a cache, a live pass, some rows of either, the rows of two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pillion.backends.fake import FakeBackend
from pillion.cache import Workspace
from pillion.errors import StateError
from pillion.extract import CachedSource, JoinedRows, LiveSource, SelectedRows, StateSource, extract

ROWS = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], []]
LAYERS = (3, 1)


@pytest.fixture(params=["cache", "live", "selected", "joined"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateSource]:
    if request.param == "live":
        yield LiveSource(FakeBackend(), ROWS, LAYERS)
    elif request.param == "selected":
        yield SelectedRows(LiveSource(FakeBackend(), [[9], *ROWS], LAYERS), [1, 2, 3, 4, 5])
    elif request.param == "joined":
        first, second = (LiveSource(FakeBackend(), part, LAYERS) for part in (ROWS[:2], ROWS[2:]))
        yield JoinedRows(first, second)
    else:
        with extract(FakeBackend(), ROWS, LAYERS, tmp_path / "cache", "key") as reader:
            yield CachedSource(reader)


def test_a_source_says_what_it_holds(source: StateSource) -> None:
    assert list(source.lengths) == [3, 1, 2, 4, 0]
    assert source.layers == LAYERS
    assert source.dim == 16


def test_a_batch_is_padded_with_zeros_on_the_right(source: StateSource) -> None:
    hidden, mask = source.read_batch([1, 3, 4])
    assert mask.tolist() == [[True, False, False, False], [True] * 4, [False] * 4]
    assert hidden.shape == (2, 3, 4, 16)
    assert not hidden[:, ~mask].any()


def test_all_sources_give_the_same_states(source: StateSource) -> None:
    wanted, _ = LiveSource(FakeBackend(), ROWS, LAYERS).read_batch([0, 2])
    torch.testing.assert_close(source.read_batch([0, 2])[0], wanted)


def test_a_row_does_not_depend_on_those_beside_it(source: StateSource) -> None:
    together, _ = source.read_batch([3, 1, 2])
    alone, _ = source.read_batch([2])
    torch.testing.assert_close(together[:, 2:, :2], alone)


def test_a_workspace_is_used_again(source: StateSource) -> None:
    workspace = Workspace()
    first, _ = source.read_batch([3], workspace)
    second, _ = source.read_batch([0], workspace)
    assert first.data_ptr() == second.data_ptr()


def test_live_states_can_be_trained_on(source: StateSource) -> None:
    hidden, _ = source.read_batch([0])
    weight = torch.ones(16, requires_grad=True)
    (hidden @ weight).sum().backward()
    assert weight.grad is not None


def test_a_live_state_that_is_not_finite_is_named() -> None:
    backend = FakeBackend()
    backend.embeddings[9] = torch.inf
    with pytest.raises(StateError, match="row 3, token 2, layer 1"):
        LiveSource(backend, ROWS, (1, 3)).read_batch([0, 3])
