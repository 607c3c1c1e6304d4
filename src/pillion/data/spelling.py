"""Labels that differ by spaces, case or a decimal zero alone are one label.

Promises a note that names the rows for everything that it brings together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from pillion.data.judged_labels import JudgedLabels, Label, SoftLabels, judged
from pillion.errors import DataError

_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_NUM_NAMED = 5
_EMPTY_WORDS = frozenset({"nan", "<na>", "nat", "null"})
_EMPTY = (
    "Label {!r} (row {}) reads like an empty cell that has become a word; where it is one, leave "
    "such rows out."
)


def one_spelling(labels: Sequence[Label], rows: Sequence[int]) -> tuple[list[Label], list[str]]:
    """The labels under the commonest spelling of each, and notes.

    Args:
        labels: of the rows.
        rows: their numbers.
    """
    counts: Counter[str] = Counter()
    first_rows: dict[str, int] = {}
    for row, label in zip(rows, labels, strict=True):
        for name in judged(label):
            counts[name] += 1
            first_rows.setdefault(name, row)
    spellings: dict[str, list[str]] = {}
    for name, _ in counts.most_common():
        spellings.setdefault(_key(name), []).append(name)
    taken = {name: names[0].strip() for names in spellings.values() for name in names}
    changed = [
        names for names in spellings.values() if len(names) > 1 or taken[names[0]] != names[0]
    ]
    empty = [name for name in counts if name.strip().casefold() in _EMPTY_WORDS]
    told = [_EMPTY.format(name, first_rows[name]) for name in empty[:1]]
    if not changed:
        return list(labels), told
    notes = told + [_note(names, taken[names[0]], first_rows) for names in changed[:_NUM_NAMED]]
    if len(changed) > _NUM_NAMED:
        notes.append(f"... and {len(changed) - _NUM_NAMED} more labels with several spellings.")
    return [_renamed(label, taken.__getitem__) for label in labels], notes


def _key(name: str) -> str:
    plain = " ".join(name.split()).casefold()
    whole = _WHOLE.fullmatch(plain)
    return whole[1] if whole else plain


def _note(names: Sequence[str], taken: str, first_rows: dict[str, int]) -> str:
    listed = " and ".join(f"{name!r} (row {first_rows[name]})" for name in names)
    if len(names) == 1:
        return f"Label {listed} is read without the spaces around it."
    return f"Labels {listed} differ by spaces, case or a decimal zero alone: one label, {taken!r}."


def _renamed(label: Label, taken: Callable[[str], str]) -> Label:
    if isinstance(label, str):
        return taken(label)
    if isinstance(label, SoftLabels):
        return label.renamed(taken)
    names = tuple(dict.fromkeys(map(taken, label)))
    if not isinstance(label, JudgedLabels):
        return names
    lacks = tuple(dict.fromkeys(map(taken, label.lacks)))
    both = next((name for name in names if name in lacks), None)
    if both is not None:
        raise DataError(
            f"A row both has and lacks the label {both!r}, which stands there in two spellings; "
            "give each label one."
        )
    return JudgedLabels(names, lacks)
