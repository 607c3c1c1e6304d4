"""Tokens of a scope, taken out of a padded or packed batch, and put side by side."""

from __future__ import annotations

import torch

from pillion.backends import Step
from pillion.runtime.tapped_tokens import TappedTokens


def test_tokens_of_a_padded_batch_stand_in_their_rows() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 1]]).bool()
    found = TappedTokens.chosen(mask, None)
    hidden = torch.arange(12.0).view(3, 4, 1)
    assert found.take(hidden)[0, :, 0].tolist() == [1, 2, 8, 11]
    assert found.columns.tolist() == [1, 2, 0, 3]
    assert found.mask.tolist() == [[True, True], [False, False], [True, True]]
    some = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]).bool()
    assert found.among(some, None).tolist() == [[True, False], [False, False], [False, True]]
    rows = found.spread(found.take(hidden)[None])[0, :, :, 0]
    assert rows.tolist() == [[1, 2], [0, 0], [8, 11]]


def test_tokens_of_a_packed_batch_stand_in_their_sequences() -> None:
    sequences = torch.tensor([0, 0, 0, 1, 1])
    packed = TappedTokens.packed(Step(torch.ones(1, 5).bool(), None, 0, sequences=sequences))
    hidden = torch.arange(5.0).view(1, 5, 1)
    assert packed.spread(hidden[None])[0, :, :, 0].tolist() == [[0, 1, 2], [3, 4, 0]]
    found = TappedTokens.chosen(torch.tensor([[1, 0, 1], [0, 1, 0]]).bool(), packed)
    assert found.take(hidden)[0, :, 0].tolist() == [0, 2, 4]
    assert found.columns.tolist() == [0, 2, 1]
    some = torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    assert found.among(some, packed).tolist() == [[True, False], [True, False]]
    assert found.spread(found.take(hidden)[None])[0, :, :, 0].tolist() == [[0, 2], [4, 0]]


def test_one_row_needs_no_sorting_out() -> None:
    found = TappedTokens.chosen(torch.tensor([[0, 1, 0, 1]]).bool(), None)
    values = torch.randn(2, 1, 2, 3)
    assert found.spread(values) is values and found.mask.tolist() == [[True, True]]
