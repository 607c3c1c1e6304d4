"""Rows beside themselves in other letters and lengths, so that neither decides a label.

Promises one copy a row with the row's own label, and the same copies for the same rows. Costs no
label. Does not know models.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from pillion.core import Scope, Text
from pillion.data.changes import PERTURBATIONS, Perturbation
from pillion.data.contexts import shipped_contexts
from pillion.data.examples import with_words, words_in
from pillion.data.rows import Rows
from pillion.errors import unknown_name

PADDING_WORDS = (20, 250)
"""Fewest and most words of padding."""


def augmented(
    rows: Rows,
    kinds: Sequence[str],
    scope: Scope,
    fits: Callable[[Text], bool],
    seed: int = 0,
) -> Rows:
    """The rows, and after all of them a changed copy of each.

    Kinds are dealt by chance to as many rows each, whatever the rows hold. A copy that would be
    empty, or does not fit, is the row as it stands.

    Args:
        rows: to learn from; nothing that validates.
        kinds: of `AUGMENTS`.
        scope: which turns are changed; the others stay.
        fits: whether a text can be read.
        seed: of the deal and of the changes.

    Raises:
        ConfigError: an unknown kind.
        DataError: a row without words of the scope.
    """
    check_kinds(kinds)
    chance = random.Random(seed)
    dealt = [kinds[place % len(kinds)] for place in range(len(rows))]
    chance.shuffle(dealt)
    made = (_changed(row, kind, scope, chance) for row, kind in zip(rows.texts, dealt, strict=True))
    copies = [new if fits(new) else old for new, old in zip(made, rows.texts, strict=True)]
    return rows.and_copies(copies)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuses a change that there is not.

    Raises:
        ConfigError: naming those that there are.
    """
    for kind in kinds:
        if kind not in AUGMENTS:
            raise unknown_name("change of texts", kind, AUGMENTS)


def _changed(text: Text, kind: str, scope: Scope, chance: random.Random) -> Text:
    own = words_in(text, scope)
    found = [AUGMENTS[kind](words, chance) for words in own]
    kept = [new if new.strip() else old for new, old in zip(found, own, strict=True)]
    return with_words(text, scope, kept)


def _case(text: str, chance: random.Random) -> str:
    return text.upper() if chance.random() < 0.5 else text.lower()


def _padded(text: str, chance: random.Random) -> str:
    """The text somewhere among words of everyday talks."""
    pieces, wanted = list[str](), chance.randint(*PADDING_WORDS)
    while sum(len(piece.split()) for piece in pieces) < wanted:
        pieces.append(chance.choice(_everyday()))
    at = chance.randint(0, len(pieces))
    return "\n\n".join([*pieces[:at], text, *pieces[at:]])


def _everyday() -> list[str]:
    """What users and assistants say in the contexts that come with pillion."""
    if not _SAID:
        turns = (turn for one in shipped_contexts().each for turn in one)
        said = (turn.content for turn in turns if turn.role in ("user", "assistant"))
        _SAID.extend(dict.fromkeys(words for words in said if words.strip()))
    return _SAID


_SAID = list[str]()

AUGMENTS: dict[str, Perturbation] = {
    "case": _case,
    "spaces": PERTURBATIONS["spaces in words"],
    "leet": PERTURBATIONS["leetspeak"],
    "typos": PERTURBATIONS["typos"],
    "padding": _padded,
}
