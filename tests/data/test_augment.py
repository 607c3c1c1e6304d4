"""Rows beside themselves, changed in ways that leave their labels."""

from __future__ import annotations

import pytest

from pillion.core import Turn
from pillion.data import AUGMENTS, Rows, augmented
from pillion.data.augment import PADDING_WORDS
from pillion.errors import PillionError

WORDS = "please tell me a long story about the sea"


def rows(count: int = 40) -> Rows:
    return Rows.of([f"{WORDS} {n}" for n in range(count)], ["x", "y"] * (count // 2), "memory")


@pytest.mark.parametrize("kind", AUGMENTS)
def test_every_row_comes_twice_with_its_label_once_changed(kind: str) -> None:
    found = augmented(rows(), [kind], "last-user", lambda _: True)
    assert found.texts[:40] == rows().texts and found.labels == (*"xy" * 40,)
    if kind != "case":  # a text in lower case is no other one
        assert all(new != old for new, old in zip(found.texts[40:], found.texts, strict=False))
    else:
        upper = [text == text.upper() for text in found.texts[40:]]
        assert 5 < sum(upper) < 35
    assert found == augmented(rows(), [kind], "last-user", lambda _: True)


def test_kinds_are_dealt_to_as_many_rows_each() -> None:
    found = augmented(rows(), ["leet", "padding"], "last-user", lambda _: True)
    padded = [WORDS in text for text in found.texts[40:]]
    assert sum(padded) == 20 and padded != sorted(padded)
    other = augmented(rows(), ["leet", "padding"], "last-user", lambda _: True, seed=1)
    assert padded != [WORDS in text for text in other.texts[40:]]


def test_padding_stands_on_either_side_and_keeps_the_text_whole() -> None:
    found = augmented(rows(), ["padding"], "last-user", lambda _: True)
    for old, new in zip(rows().texts, found.texts[40:], strict=True):
        assert isinstance(old, str) and isinstance(new, str)
        assert old in new.split("\n\n") and len(new.split()) > PADDING_WORDS[0]
    places = [str(new).index(WORDS) > 0 for new in found.texts[40:]]
    assert 5 < sum(places) < 40


def test_of_a_conversation_the_turns_that_are_read_are_changed() -> None:
    talk = (Turn("user", "tell me"), Turn("assistant", "a story"), Turn("user", "of ease"))
    found = augmented(Rows.of([talk], ["x"], "memory"), ["leet"], "last-user", lambda _: True)
    assert found.texts[1] == (*talk[:2], Turn("user", "0f 3453"))


def test_a_copy_that_does_not_fit_is_the_row_as_it_stands() -> None:
    found = augmented(rows(4), ["padding"], "last-user", lambda text: len(text) < 60)
    assert found.texts[4:] == found.texts[:4]


def test_a_change_that_there_is_not_is_named() -> None:
    with pytest.raises(PillionError, match=r"Unknown change of texts 'leat'.*Did you mean 'leet'"):
        augmented(rows(2), ["leat"], "last-user", lambda _: True)
