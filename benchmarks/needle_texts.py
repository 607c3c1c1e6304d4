"""A needle among common words: does a probe hear four words in four thousand?

The stress test of GLOT (arXiv 2603.03389): somewhere in a long text a delivery is said to contain
keys, or `not`, `never` or `without` keys; the label is which. Made from a seed; knows no model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pillion.data import Rows
from pillion.errors import ConfigError

NEGATIONS = ("not", "never", "without")
LABELS = ("plain", "negated")

_PLACES = "box room bag car desk shop garden kitchen office bottle drawer house"
_THINGS = "books apples shoes paper tools water flowers money letters bread coins toys"
_COMMON = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work night point home
area story fact month lot right study eye job word business issue side kind head service friend
father power hour game line end member law city name president team minute idea body back parent
face level door health person art war history party result change morning reason girl guy moment
air teacher force education good new first last long great little own other old big high small
large next early young important few public bad same able have make know take see come think
look want give use find tell ask seem feel try leave call and then there here now very also well
about under over again around often almost together
"""
PLACES, THINGS, COMMON = (tuple(words.split()) for words in (_PLACES, _THINGS, _COMMON))
"""Of other sentences, and of no sentence; one token each, mostly, and none of them negates."""

_NEEDLE_WORDS = 5
"""The needle's own words, at most."""


@dataclass(frozen=True)
class NeedleSettings:
    """How the texts are made.

    Attributes:
        num_words: of a text.
        distractors: share of the words that are drawn at random from common ones. What is left is
            the needle and sentences of its form about other places and things.
        elsewhere: whether the other sentences are negated too, each by chance, and the random words
            hold negations: then it does not help to know that a text has one.

    Raises:
        ConfigError: a share outside 0 to 1, or a text with no room for the needle.
    """

    num_words: int = 512
    distractors: float = 0.9
    elsewhere: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.distractors <= 1:
            raise ConfigError(f"distractors is {self.distractors}; give a share from 0 to 1.")
        if self.num_words < _NEEDLE_WORDS:
            raise ConfigError(
                f"num_words is {self.num_words}; the needle alone has {_NEEDLE_WORDS}, give more."
            )


def needle_rows(num_rows: int, settings: NeedleSettings, seed: int = 0) -> Rows:
    """Labelled texts with one needle each, at a random place; half of them negated.

    Args:
        num_rows: texts; every second one is negated.
        settings: how they are made.
        seed: of everything random; same seed, same texts.
    """
    made = random.Random(seed)
    labels = [LABELS[i % 2] for i in range(num_rows)]
    texts = [_text(settings, label == "negated", made) for label in labels]
    return Rows.of(texts, labels, "needle")


def _text(settings: NeedleSettings, negated: bool, made: random.Random) -> str:
    pieces = [_sentence("delivery", "keys", negated, made)]
    sentences = round(settings.num_words * (1 - settings.distractors))
    while _num_words(pieces) + _NEEDLE_WORDS <= sentences:
        also = settings.elsewhere and made.random() < 0.5
        pieces.append(_sentence(made.choice(PLACES), made.choice(THINGS), also, made))
    known = (*COMMON, *NEGATIONS) if settings.elsewhere else COMMON
    left = settings.num_words - _num_words(pieces)
    pieces += [[made.choice(known)] for _ in range(left)]
    made.shuffle(pieces)
    return " ".join(word for piece in pieces for word in piece)


def _num_words(pieces: list[list[str]]) -> int:
    return sum(map(len, pieces))


def _sentence(place: str, thing: str, negated: bool, made: random.Random) -> list[str]:
    middle = [made.choice(NEGATIONS)] if negated else []
    return ["the", place, "contains", *middle, thing]
