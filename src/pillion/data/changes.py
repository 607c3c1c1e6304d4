"""The same texts in other letters and words; pure functions of texts and a seed.

Promises the same output for the same input, and that no label is another one by it. Does not know
labels or models.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Sequence

LEET = str.maketrans("aeiostAEIOST", "431057431057")
TYPO_EVERY = 12
"""Characters of a text for each typing mistake."""
TEMPLATES = (
    "I have a question. {} Thank you for your help.",
    "Please read the following message and reply to it: {}",
    "Hello! {} Kind regards",
)
"""Polite words around a text that change nothing of what it asks."""

Perturbation = Callable[[str, random.Random], str]


def _typos(text: str, chance: random.Random) -> str:
    """Swapped, lost and doubled letters."""
    letters = list(text)
    for _ in range(max(1, len(letters) // TYPO_EVERY)):
        if len(letters) < 3:
            break
        place = chance.randrange(len(letters) - 1)
        kind = chance.randrange(3)
        if kind == 0:
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
        elif kind == 1:
            del letters[place]
        else:
            letters.insert(place, letters[place])
    return "".join(letters)


def _spaces(text: str, _: random.Random) -> str:
    """A space inside every word of four letters or more."""
    return re.sub(r"\w{4,}", lambda w: f"{w[0][: len(w[0]) // 2]} {w[0][len(w[0]) // 2 :]}", text)


def _template(text: str, chance: random.Random) -> str:
    return chance.choice(TEMPLATES).format(text)


def _base64(text: str, _: random.Random) -> str:
    return base64.b64encode(text.encode()).decode()


PERTURBATIONS: dict[str, Perturbation] = {
    "upper case": lambda text, _: text.upper(),
    "lower case": lambda text, _: text.lower(),
    "typos": _typos,
    "leetspeak": lambda text, _: text.translate(LEET),
    "spaces in words": _spaces,
    "polite template": _template,
    "base64": _base64,
}


def perturbed(name: str, texts: Sequence[str], seed: int) -> list[str]:
    """The texts, changed one way; a text that would be left empty stays as it is.

    Args:
        name: of `PERTURBATIONS`.
        texts: one or more.
        seed: of what is random.
    """
    chance = random.Random(seed)
    changed = [PERTURBATIONS[name](text, chance) for text in texts]
    return [new if new.strip() else old for new, old in zip(changed, texts, strict=True)]
