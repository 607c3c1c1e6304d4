"""In which script a text is written and, of Latin ones, in which language, where that shows.

A script is what most letters' Unicode names begin with. A language is told by its commonest small
words, of which a sentence holds a few; where they are too few, or as many of another language,
nothing is told. Keeps no word of a text. Knows no model.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

LATIN = "Latin"
"""Of a text in Latin letters whose language cannot be told."""

SEEN = 0.02
"""Share of the training texts from which a writing counts as learnt."""
WORTH_SAYING = 0.05
"""Share of texts in other writings that is worth a word."""
_MANY = 1000
"""Characters of a text that are looked at."""
_MANY_TEXTS = 5000
"""Texts that are looked at, evenly spaced."""
_LEAST = 2
"""Small words that tell a language."""

_WORDS = {
    "English": "the and of is are was were have has this that these with for from you your my it "
    "what how why where when they their there would could should please not but can't don't i'm "
    "i to do in on at be we he she it an or so if me no as by do did any some all out up about",
    "German": "der das und ist sind nicht ich du er sie es wir ein eine einen mit für auf von zu "
    "wie wo warum kann mein meine dein bitte auch aber wenn dass habe bist wird noch dem kein",
    "French": "le la les des une est sont je tu il elle nous vous ne pas que qui avec pour dans "
    "sur mon ma mes votre comment pourquoi quand mais c'est j'ai veux peux être au aux du et un de",
    "Spanish": "el la los las una es son yo tú que con para por en mi tu su cómo dónde cuándo qué "
    "pero muy está puedo quiero hay del al y un de lo se fue",
    "Portuguese": "os uma é são eu você não que com para por em meu minha seu como onde quando "
    "mas muito está posso quero há da na um de se foi ao pelo",
    "Italian": "il lo gli le una è sono io tu non che con per di in mio mia dove quando ma molto "
    "posso voglio del della nel ho hai questo perché e un la si mi",
    "Dutch": "de het een en zijn niet ik jij je hij zij wij van met voor op hoe wat waar waarom "
    "kan mijn jouw ook maar als dat heb heeft ben wordt nog naar",
    "Polish": "nie jest się na że jak gdzie kiedy dlaczego czy moje mój moja proszę ale dla od "
    "są mam może jestem tylko bardzo mogę przez",
    "Turkish": "bir ve bu için ile ne nasıl nerede neden ben sen benim değil var yok çok ama mı mi "
    "daha olarak gibi kadar lütfen",
    "Swedish": "och är att det en ett inte jag du han hon vi ni som med för på av hur vad varför "
    "kan mitt din om har till från den",
    "Indonesian": "yang dan di ini itu untuk dengan tidak saya kamu anda apa bagaimana dimana "
    "kenapa bisa ada akan dari ke sudah belum mohon",
}
_OF_WORD = {
    word: [name for name, words in _WORDS.items() if word in words.split()]
    for word in " ".join(_WORDS.values()).split()
}


def writing_of(text: str) -> str | None:
    """A language in Latin letters, `LATIN` where none is told, or another script; None for none.

    Args:
        text: of any length; its beginning is looked at.
    """
    seen = text[:_MANY]
    scripts = Counter(_script(letter) for letter in seen if letter.isalpha())
    if not scripts:
        return None
    (script, _), *_ = scripts.most_common(1)
    return _language(seen) if script == LATIN else script


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
    return {"HIRAGANA": "Kana", "KATAKANA": "Kana", "CJK": "Han"}.get(name, name.capitalize())


def _language(text: str) -> str:
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.casefold().replace("’", "'"))
    found = Counter(language for word in {*words} for language in _OF_WORD.get(word, ()))
    best = found.most_common(2)
    if not best or best[0][1] < _LEAST or (len(best) > 1 and best[1][1] == best[0][1]):
        return LATIN
    return best[0][0]


def writings(texts: Sequence[str]) -> dict[str, float]:
    """Share of the texts in each writing, the largest first; of texts without letters none."""
    found = _found(texts)
    total = found.total()
    return {writing: round(count / total, 4) for writing, count in found.most_common()}


def _found(texts: Sequence[str]) -> Counter[str]:
    some = texts[:: max(1, len(texts) // _MANY_TEXTS)]
    return Counter(one for text in some if (one := writing_of(text)) is not None)


def one_writing_note(shares: Mapping[str, float]) -> str | None:
    """Says that nearly all training texts are in one language or script; None where they are not.

    Args:
        shares: of each writing, as `writings` gives them.
    """
    told = {writing: share for writing, share in shares.items() if writing != LATIN}
    total = sum(told.values())
    if not told or total < 0.5:  # most texts tell nothing
        return None
    most = max(told, key=told.__getitem__)
    if told[most] / total < 1 - SEEN:
        return None
    return f"Nearly all texts are in {_spoken(most)}: of texts in others the probe learns nothing."


def foreign_note(texts: Sequence[str], learnt: Mapping[str, float], probe: str) -> str | None:
    """Says how many texts are in languages or scripts that a probe was hardly trained on.

    Args:
        texts: to be labelled.
        learnt: shares of the training texts; empty where the card says nothing of them.
        probe: its name.
    """
    if not learnt:
        return None
    # Where no language of the training texts was told, Latin ones are not told apart.
    latin = any(one in _WORDS and share >= SEEN for one, share in learnt.items())
    known = {one for one, share in learnt.items() if share >= SEEN} | {LATIN}
    found = _found(texts)
    foreign = {
        one: count
        for one, count in found.most_common()
        if one not in known and (latin or one not in _WORDS)
    }
    if not foreign or sum(foreign.values()) < WORTH_SAYING * found.total():
        return None
    share = sum(foreign.values()) / found.total()
    names = [_spoken(one) for one in foreign][:3]
    return (
        f"{share:.0%} of the texts look {' or '.join(names)}, which probe {probe!r} was hardly "
        "trained on: expect it to be wrong there more often, and measure it on such texts first."
    )


def _spoken(writing: str) -> str:
    return writing if writing in _WORDS else f"{writing} script"
