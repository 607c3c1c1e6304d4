"""Pieces of pages by page number: kept, found, replaced, and not kept where there is no place."""

from __future__ import annotations

import pytest
import torch

from pillion.probe.network import State
from pillion.sidecache.pages import Pages

NUM_PAGES = 6
SIZE = 2 * 3 + 2  # numbers of a state


def state(*values: float) -> State:
    """Rows of states, [layer, row, ...], each filled with its value."""
    one = torch.tensor(values, dtype=torch.float32)
    return {"a": one.view(1, -1, 1).expand(2, -1, 3), "b": one.view(1, -1).expand(2, -1)}


def pages(num_places: int | None = None) -> Pages:
    memory = None if num_places is None else torch.full((num_places * SIZE + 3,), torch.nan)
    return Pages(state(0.0), NUM_PAGES, memory)


def kept(some: Pages, page: int, bits: int) -> list[float] | None:
    """The values of the pieces that make up some bits."""
    places = some.find(page, bits)
    if places is None:
        return None
    found = some.states(places) if places else state()
    a, b = found["a"], found["b"]
    assert a.shape == (2, len(places), 3) and b.shape == (2, len(places))
    assert (a == b[..., None]).all() and (b[0] == b[1]).all()
    return b[0].tolist()


@pytest.mark.parametrize("num_places", [None, 9, NUM_PAGES + 2])
def test_pieces_are_found_by_page_and_bits_in_the_order_of_the_text(
    num_places: int | None,
) -> None:
    some = pages(num_places)
    some.store([4, 0, 5], [[0b0011, 0b1100], [0b1111], [0b0001, 0b1000]], state(1, 2, 3, 4, 5))
    assert some.find(4, 0b1111) == [4, NUM_PAGES] and some.find(5, 0b1001) == [5, NUM_PAGES + 1]
    assert kept(some, 4, 0b1111) == [1, 2]
    assert kept(some, 4, 0b1100) == [2] and kept(some, 4, 0b0011) == [1]
    assert kept(some, 0, 0b1111) == [3]
    assert kept(some, 5, 0b1001) == [4, 5] and kept(some, 5, 0) == []
    for page, bits in ((4, 0b0111), (4, 0b0001), (0, 0b0011), (1, 0b0001)):
        assert kept(some, page, bits) is None
    mixed = some.states([*(some.find(5, 0b1001) or []), *(some.find(0, 15) or [])])
    assert mixed["b"][0].tolist() == [4, 5, 3]


def test_what_was_kept_of_a_page_goes_when_it_is_filled_again() -> None:
    some = pages()
    some.store([2], [[0b01, 0b10]], state(1, 2))
    some.store([2, 3], [[], [0b11]], state(3))
    assert kept(some, 2, 0b11) is None and kept(some, 2, 0) == [] and kept(some, 3, 0b11) == [3]
    some.store([2], [[0b11]], state(4))
    assert kept(some, 2, 0b11) == [4] and kept(some, 3, 0b11) == [3]
    some.store([1], [[]], state())
    assert kept(some, 1, 0) == []


def test_where_memory_is_given_a_piece_without_a_place_is_not_kept_and_a_freed_place_is_used() -> (
    None
):
    some = pages(NUM_PAGES + 1)
    some.store([0, 1], [[0b001, 0b010, 0b100], [0b01, 0b10]], state(1, 2, 3, 4, 5))
    assert kept(some, 0, 0b011) == [1, 2] and kept(some, 0, 0b111) is None
    assert kept(some, 1, 0b01) == [4] and kept(some, 1, 0b11) is None
    some.store([0], [[0b111]], state(6))
    some.store([1], [[0b01, 0b10]], state(7, 8))
    assert kept(some, 0, 0b111) == [6] and kept(some, 1, 0b11) == [7, 8]
    assert some.held_bytes == (NUM_PAGES + 1) * SIZE * 4


def test_without_given_memory_there_is_a_place_for_every_piece() -> None:
    some = pages()
    assert some.held_bytes == NUM_PAGES * SIZE * 4
    for page in range(NUM_PAGES):
        some.store([page], [[1 << i for i in range(6)]], state(*range(10 * page, 10 * page + 6)))
    for page in range(NUM_PAGES):
        assert kept(some, page, 0b111111) == list(range(10 * page, 10 * page + 6))
    held = some.held_bytes
    assert held == (NUM_PAGES + 32) * SIZE * 4  # 30 pieces more: 8 places, then as many again
    for _ in range(3):  # freed places are enough from here on
        some.store([3], [[1 << i for i in range(6)]], state(*range(90, 96)))
    assert some.held_bytes == held and kept(some, 3, 0b111111) == list(range(90, 96))
    assert kept(some, 2, 0b111111) == list(range(20, 26))


def test_a_page_of_many_tokens_is_found_by_all_of_its_bits() -> None:
    some, high, low = pages(), 0b11 << 300, (1 << 300) - 1
    some.store([3], [[low, high]], state(1, 2))
    assert kept(some, 3, (1 << 302) - 1) == [1, 2]
    assert kept(some, 3, int("11" + "0" * 300, 2)) == [2] and kept(some, 3, 1 << 300) is None
    assert kept(some, 3, low + 1) is None and kept(some, 3, high + 1) is None


@pytest.mark.parametrize("num_places", [None, 40])
def test_pages_with_any_numbers_of_pieces_may_be_filled_at_once(num_places: int | None) -> None:
    some, counts = pages(num_places), (1, 2, 3, 0, 4, 3)
    numbers = [3, 5, 0, 1, 4, 2]
    some.store(numbers, [[1 << i for i in range(n)] for n in counts], state(*range(13)))
    begin = 0
    for page, count in zip(numbers, counts, strict=True):
        assert kept(some, page, (1 << count) - 1) == list(range(begin, begin + count))
        begin += count


def test_where_places_run_out_the_pieces_behind_are_still_their_own_pages() -> None:
    some = pages(NUM_PAGES + 3)
    counts = {3: 1, 5: 2, 0: 3, 1: 0, 4: 4, 2: 3}
    bits = [[1 << i for i in range(count)] for count in counts.values()]
    some.store(list(counts), bits, state(*range(13)))
    assert kept(some, 3, 1) == [0] and kept(some, 5, 0b11) == [1, 2]
    assert kept(some, 0, 0b111) == [3, 4, 5]
    assert kept(some, 4, 1) == [6] and kept(some, 4, 0b1111) is None
    assert kept(some, 2, 1) == [10] and kept(some, 2, 0b11) is None
