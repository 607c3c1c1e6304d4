"""Stop strings in a text that comes in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.serve.stops import StopFinder

WORD = st.text("ab", min_size=1, max_size=4)


def said(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    text = "".join(finder.add(piece) for piece in pieces)
    return text + finder.flush(), finder.found


def plain(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: of all places where a stop ends, the first; there, the longest stop."""
    for end in range(1, len(text) + 1):
        begins = [end - len(s) for s in stops if text[:end].endswith(s)]
        if begins:
            return text[: min(begins)], True
    return text, False


@settings(deadline=None)
@given(st.text("ab", max_size=12), st.lists(WORD, max_size=4), st.data())
def test_what_is_said_does_not_depend_on_where_the_text_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert said(pieces, stops) == plain(text, stops)


@pytest.mark.parametrize("pieces", [["say STOP now"], list("say STOP now"), ["say ST", "OP now"]])
def test_nothing_of_a_stop_string_is_said(pieces: list[str]) -> None:
    finder = StopFinder(["STOP"])
    assert "".join(finder.add(piece) for piece in pieces) == "say "
    assert finder.found and finder.flush() == "" and finder.add("more") == ""


def test_only_what_could_be_a_beginning_is_held_back() -> None:
    finder = StopFinder(["<end>"])
    assert finder.add("a <") == "a "
    assert finder.add("e") == ""
    assert finder.add("xit>") == "<exit>"
    assert finder.add("b<en") == "b"
    assert finder.flush() == "<en" and not finder.found


def test_without_stop_strings_every_piece_goes_out_at_once() -> None:
    finder = StopFinder([])
    assert finder.add("abc") == "abc" and finder.flush() == ""
