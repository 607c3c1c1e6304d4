"""Labels of turns: whether a list in a label cell is one, and what examples it makes.

Promises never to guess where a list could as well name several labels of the whole row. Does not
know what a label's name may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pillion.core import Text
from pillion.data.cells import UnusableCell
from pillion.errors import DataError

_SAY = "say which it is: --turn-labels or --row-labels (in Python turn_labels=True or False)"


def has_turn_labels(
    cells: Sequence[Any], texts: Sequence[Text], numbers: Sequence[int], source: str
) -> bool:
    """Whether lists in the label column are labels of the turns, where the user did not say.

    A list that holds a null, a list, or a name twice cannot name labels of the row; one that is not
    as long as its row has turns cannot be labels of them.

    Args:
        cells: of the label column.
        texts: of the same rows.
        numbers: of the rows, for errors.
        source: what errors call the table.

    Raises:
        DataError: both readings are possible, or none.
    """
    lists = [
        (number, cast("list[Any]", cell), len(text))
        for cell, text, number in zip(cells, texts, numbers, strict=True)
        if isinstance(cell, list) and not isinstance(text, str)
    ]
    if not lists:
        return False
    unequal = next(((n, cell, turns) for n, cell, turns in lists if len(cell) != turns), None)
    only_turns = next((n for n, cell, _ in lists if not _may_be_names(cell)), None)
    if unequal is None and only_turns is not None:
        return True
    if unequal is None:
        raise DataError(
            f"{source} has lists of labels as long as the rows have turns, first in row "
            f"{lists[0][0]}: they may be a label a turn, or several labels of the row; {_SAY}."
        )
    if only_turns is not None:
        number, cell, turns = unequal
        raise DataError(
            f"{source} has {len(cell)} labels for {turns} turns in row {number}, and nulls or "
            f"repeats as among labels of turns in row {only_turns}; give a label or null for each "
            f"turn, or {_SAY}."
        )
    return False


def _may_be_names(cell: list[Any]) -> bool:
    plain = [item for item in cell if isinstance(item, str | int | float)]
    return len(plain) == len(cell) and len(set(plain)) == len(cell)


def turn_fault(cell: Any, text: Text) -> UnusableCell | None:
    """What is wrong with the labels of a row's turns; None if nothing is."""
    if isinstance(text, str):
        return UnusableCell("labels of turns for a text without turns", "give {} messages")
    if not isinstance(cell, list):
        return UnusableCell(
            "a label where a list with one for each turn is meant", "write {} so", cell
        )
    values = cast("list[Any]", cell)
    if len(values) != len(text):
        return UnusableCell(
            f"{len(values)} labels for {len(text)} turns",
            "give {} a label or null for each turn",
            cell,
        )
    if all(is_null(value) for value in values):
        return UnusableCell("no label for any of its turns", "label one, or remove {}")
    return None


def is_null(value: Any) -> bool:
    """Whether a label is not judged: null, or NaN, the only value that differs from itself."""
    return value is None or value != value
