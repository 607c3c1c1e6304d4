"""Texts of another length; pure functions of texts and a seed.

Promises the same output for the same input. Does not know labels or models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LongText:
    """A text with or without another one inside.

    Attributes:
        text: the whole.
        has_needle: whether there is one.
        words: about how many words were wanted.
        place: where the needle stands: `start`, `middle`, `end`; empty without.
    """

    text: str
    has_needle: bool
    words: int
    place: str


def long_texts(
    needles: Sequence[str], filler: Sequence[str], words: Sequence[int], seed: int
) -> list[LongText]:
    """Each needle once in benign text of every length, and as many benign texts without one.

    Places take turns: start, middle, end. The filler of a pair is the same text, so the needle
    alone tells them apart.

    Args:
        needles: short texts that have the label.
        filler: texts that have not; they are joined in random order.
        words: lengths of the whole, in words.
        seed: of the order.
    """
    chance, found = random.Random(seed), list[LongText]()
    for length in words:
        for number, needle in enumerate(needles):
            pieces = _pieces(filler, length, chance)
            place = ("start", "middle", "end")[number % 3]
            at = {"start": 0, "middle": len(pieces) // 2, "end": len(pieces)}[place]
            whole = "\n\n".join([*pieces[:at], needle, *pieces[at:]])
            found.append(LongText(whole, True, length, place))
            found.append(LongText("\n\n".join(pieces), False, length, ""))
    return found


def _pieces(filler: Sequence[str], words: int, chance: random.Random) -> list[str]:
    """Filler of about so many words, at least two pieces; a long one is cut."""
    pieces, count = list[str](), 0
    while count < words or len(pieces) < 2:
        piece = chance.choice(filler).split()[: max(words // 4, 8)]
        pieces.append(" ".join(piece))
        count += max(len(piece), 1)
    return pieces
