"""What of a table's texts makes a probe's numbers say less than they seem to, in sentences.

Promises counts, no word of a text. Knows neither labels nor models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median

from pillion.data.examples import normalised
from pillion.data.writing import one_writing_note

FEW_TEXTS = 100
"""Rows below which a probe is a sketch."""
ALIKE = 0.02
"""Share of texts with the words of an earlier one that is worth a word."""
FAR_LONGER = 20
"""Times the median's characters from which a text is far longer than most."""
LONG = 1000
"""Characters that are long whatever the others have."""


def text_notes(texts: Sequence[str], writings: Mapping[str, float]) -> list[str]:
    """Few texts, texts alike, far longer ones, and one language or script alone.

    Args:
        texts: what the probe reads of each row, one or more.
        writings: their shares in languages and scripts, as `pillion.data.writings` gives them.
    """
    found = (
        _few_note(len(texts)),
        _alike_note(texts),
        _long_note(texts),
        one_writing_note(writings),
    )
    return [note for note in found if note is not None]


def shared_note(texts: Sequence[str], held: Sequence[str]) -> str | None:
    """How many validation rows were learnt from; None for too few to say so.

    Args:
        texts: of the training rows; case and white space do not tell them apart.
        held: of the validation rows.
    """
    learnt = {normalised(text) for text in texts}
    count = sum(normalised(text) in learnt for text in held)
    if not count or count < ALIKE * len(held):
        return None
    return (
        f"{count:,} of {len(held):,} validation rows have the text of a training row: they choose "
        "epoch and threshold by what was learnt, and their numbers flatter."
    )


def _few_note(count: int) -> str | None:
    if count >= FEW_TEXTS:
        return None
    return f"Only {count} rows: a few hundred are usual, and numbers of so few are wide guesses."


def _alike_note(texts: Sequence[str]) -> str | None:
    """Texts of the same words in the same order; digits, case and signs do not tell them apart."""
    count = len(texts) - len({_words(text) for text in texts})
    if count < ALIKE * len(texts) or not count:
        return None
    return (
        f"{count:,} of {len(texts):,} texts have the words of an earlier one, but for digits, case "
        "and signs: validation may hold copies of what was learnt, and its numbers flatter."
    )


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", text.casefold())) or text


def _long_note(texts: Sequence[str]) -> str | None:
    lengths = [len(text) for text in texts]
    usual = median(lengths)
    far = [one for one in lengths if one > max(FAR_LONGER * usual, LONG)]
    if not far:
        return None
    which = "1 text is" if len(far) == 1 else f"{len(far):,} texts are"
    return (
        f"{which} more than {FAR_LONGER} times as long as the median of {usual:,.0f} characters "
        f"(the longest has {max(far):,}): in such texts a few words count little."
    )
