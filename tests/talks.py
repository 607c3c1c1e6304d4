"""Conversations that serving engines are tested with, and how one of them goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pillion.core import Conversation, Segment, Tokens, Turn


def talks(system: str, last: str) -> list[Conversation]:
    """Four: they share beginnings, and have turns of every role.

    Args:
        system: what the system says in three of them.
        last: the last words of the longest one.
    """
    first = Turn("system", system)
    return [
        (
            first,
            Turn("user", "Hi"),
            Turn("user", "you"),  # two turns in one page
            Turn("assistant", "What can I do?"),
            Turn("tool", "17 euros"),
            Turn("user", last),
        ),
        (first, Turn("user", "Hi"), Turn("user", "you there?")),  # shares pages, ends in a turn
        (first, Turn("user", "Hello there"), Turn("tool", "4")),
        (Turn("user", "Just this one turn of some length"),),
    ]


def continued(
    encode: Callable[[Conversation], Tokens], turns: Conversation, drawn: Sequence[int]
) -> Tokens:
    """The conversation with its answer, as it was drawn, a tool's result and one more turn."""
    row = encode(turns)
    more = (Turn("assistant", "x"), Turn("tool", "none"), Turn("user", "And then?"))
    whole = encode((*turns, *more))
    assert whole[: len(row)] == row and whole.ranges("response") == (range(len(row), len(row) + 1),)
    own = Segment(len(row), len(row) + len(drawn), "assistant", len(turns))
    by = len(drawn) - 1
    rest = [
        replace(s, begin=s.begin + by, end=s.end + by) for s in whole.segments if s.turn > own.turn
    ]
    return Tokens([*row, *drawn, *whole[len(row) + 1 :]], [*row.segments, own, *rest])
