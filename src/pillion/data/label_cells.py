"""Label cells as names: kinds, lists however they are written, columns of zeros and ones.

Promises names of one kind, or a DataError with the rows that differ. What is recognised is said.
Does not know texts nor the order of labels.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

from pillion.data.cells import UnusableCell, is_blank, is_broken
from pillion.data.judged_labels import JudgedLabels, Label, SoftLabels
from pillion.data.turn_labels import is_null
from pillion.errors import DataError

# By exact type: a boolean is no number here, and 1 and 1.0 would become two different names.
_KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "a whole number",
    float: "a decimal number",
    list: "a list",
    dict: "a mapping",
}
_SCALARS = (str, bool, int, float)
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_WANTED = "wanted strings, numbers, booleans or lists of them, or a mapping of names to true/false"
_DECIDE = "--multi-label yes or no decides (in Python multi_label=True or False)"

Numbered = list[tuple[int, Any]]
"""Cells with the numbers of their rows."""


def cell_fault(cell: Any) -> UnusableCell | None:
    """What is wrong with the label of a row; None if nothing is."""
    if isinstance(cell, dict):
        return _mapping_fault(cast("dict[Any, Any]", cell))
    items = cast("list[Any]", cell) if isinstance(cell, list) else [cell]
    if any(is_blank(item) or is_null(item) for item in items):
        return UnusableCell("an empty or null label", "fill or remove them", cell)
    if any(type(item) not in _SCALARS for item in items):
        return UnusableCell("a label that is no name", _WANTED, cell)
    return _broken_fault(items, cell)


def _broken_fault(names: Iterable[Any], cell: Any) -> UnusableCell | None:
    if any(isinstance(name, str) and is_broken(name) for name in names):
        return UnusableCell("a label with half a surrogate pair", "repair {}", cell)
    return None


def _mapping_fault(cell: dict[Any, Any]) -> UnusableCell | None:
    if not all(isinstance(name, str) and name.strip() for name in cell):
        return UnusableCell("a label that is no name", _WANTED, cell)
    bad = next((value for value in cell.values() if _flag(value) is NotImplemented), None)
    if bad is not None:
        remedy = "write 0, 1 or nothing; probabilities are read with --soft-column (soft=True)"
        return UnusableCell("a mark that is neither 0 nor 1", remedy, bad)
    if all(_flag(value) is None for value in cell.values()):
        return UnusableCell("an empty or null label", "fill or remove them", cell)
    return _broken_fault(cell, cell)


def soft_fault(cell: Any) -> UnusableCell | None:
    """What is wrong with the probabilities of a row; None if nothing is."""
    if not isinstance(cell, dict):
        return UnusableCell(
            "a label that is no mapping", "write names with their probabilities", cell
        )
    each = cast("dict[Any, Any]", cell)
    if not all(isinstance(name, str) and name.strip() for name in each):
        return UnusableCell("a label that is no name", "write names with their probabilities", cell)
    given = [value for value in each.values() if not is_null(value)]
    bad = next((value for value in given if _probability(value) is None), None)
    if bad is not None:
        return UnusableCell("a value that is no probability", "write numbers from 0 to 1", bad)
    if not given:
        return UnusableCell("an empty or null label", "fill or remove them", cell)
    return _broken_fault(each, cell)


def _probability(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if 0 <= found <= 1 else None


def to_soft(numbered: Numbered) -> list[Label]:
    """The labels of mappings without a fault; a null has no probability."""
    return [
        SoftLabels({name: float(value) for name, value in cell.items() if not is_null(value)})
        for _, cell in numbered
    ]


def _flag(value: Any) -> Any:
    """True, False, or None where not judged; NotImplemented for anything else."""
    if is_null(value) or is_blank(value):
        return None
    text = str(value).strip().lower()
    return True if text in _YES else False if text in _NO else NotImplemented


def spelled_out(numbered: Numbered, source: str) -> tuple[Numbered, str]:
    """Cells that spell lists or mappings, in JSON or as Python writes them, as these; and a note.

    Raises:
        DataError: some cells spell one and some are plain names.
    """
    strings = [(row, cell) for row, cell in numbered if isinstance(cell, str) and cell.strip()]
    found = {row: value for row, cell in strings if (value := _parsed(cell)) is not None}
    if not found:
        return numbered, ""
    plain = next((row for row, _ in strings if row not in found), None)
    first = next(iter(found))
    if plain is not None:
        raise DataError(
            f"{source} mixes kinds of labels (a list in row {first} and a plain name in row "
            f"{plain}); write all of them alike, or take all as names (--multi-label no, in "
            "Python multi_label=False)."
        )
    note = (
        f"{source}: labels are lists or mappings written as text, first in row {first}; {_DECIDE}."
    )
    return [(row, found.get(row, cell)) for row, cell in numbered], note


def _parsed(cell: str) -> Any:
    """The list or mapping that a string spells, or None."""
    if cell.strip()[:1] not in "[{(":
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, tuple):
            value = list(cast("tuple[Any, ...]", value))
        return value if isinstance(value, list | dict) else None
    return None


def to_labels(
    numbered: Numbered, multi_label: bool | None, source: str
) -> tuple[list[Label], list[str]]:
    """The labels of cells without a fault, and notes of what was recognised.

    Args:
        numbered: the cells, each with the number of its row.
        multi_label: whether a row may have any number of labels; None to tell by the cells.
        source: what errors call the table.

    Raises:
        DataError: cells of several kinds, or several labels where `multi_label` is False.
    """
    _check_kinds(numbered, source)
    notes: list[str] = []
    kind = type(numbered[0][1]) if numbered else str
    if kind is str and multi_label is not False:
        numbered, note = _comma_lists(numbered, multi_label, source)
        notes += [note] if note else []
    elif kind is list and _is_one_hot([cell for _, cell in numbered]):
        numbered = [(row, _named_places(cell)) for row, cell in numbered]
        notes.append(f"{source}: lists of zeros and ones mark labels by place: label_0, label_1 ..")
    _check_kinds([(row, item) for row, cell in numbered for item in _items(cell)], source)
    if multi_label is False:
        numbered = _single(numbered, source)
    return [_label(cell, bool(multi_label)) for _, cell in numbered], notes


def _check_kinds(numbered: Numbered, source: str) -> None:
    """Raises where the values, each with the number of its row, are of more than one kind."""
    first_rows: dict[type, int] = {}
    for row, value in numbered:
        first_rows.setdefault(type(value), row)
    if len(first_rows) > 1:
        found = " and ".join(f"{_KINDS[kind]} in row {row}" for kind, row in first_rows.items())
        raise DataError(f"{source} mixes kinds of labels ({found}); write all of them alike.")


def _items(cell: Any) -> list[Any]:
    return cast("list[Any]", cell) if isinstance(cell, list) else []


def _comma_lists(numbered: Numbered, multi_label: bool | None, source: str) -> tuple[Numbered, str]:
    """Strings cut at commas, where that leaves fewer names than there were, or none but twice."""
    pieces = {cell: _cut(cell) for _, cell in numbered}
    listed = [cell for cell, parts in pieces.items() if len(parts) > 1]
    if multi_label is None:
        if not listed:
            return numbered, ""
        row = next(row for row, cell in numbered if cell == listed[0])
        uses = Counter(part for parts in pieces.values() for part in parts)
        if "" in uses or (len(uses) >= len(pieces) and min(uses.values()) < 2):
            return numbered, (
                f"{source}: labels hold commas, first in row {row}, and are taken as they are; "
                f"{_DECIDE}."
            )
        note = f"{source}: labels are lists with commas, first in row {row}; {_DECIDE}."
    else:
        note = ""
    return [(row, [part for part in pieces[cell] if part]) for row, cell in numbered], note


def _cut(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(",")]


def _is_one_hot(cells: Sequence[list[Any]]) -> bool:
    """Whether lists are as many zeros and ones in every row: a list of names names none twice."""
    lengths = {len(cell) for cell in cells}
    return (
        len(lengths) == 1
        and lengths.pop() > 1
        and all(not isinstance(item, str) and item in (0, 1) for cell in cells for item in cell)
    )


def _named_places(cell: list[Any]) -> dict[str, Any]:
    return {f"label_{place}": item for place, item in enumerate(cell)}


def _single(numbered: Numbered, source: str) -> Numbered:
    """The one name of each list."""
    for row, cell in numbered:
        if isinstance(cell, dict) or (isinstance(cell, list) and len(_items(cell)) != 1):
            count = "a mapping" if isinstance(cell, dict) else f"{len(_items(cell))} labels"
            raise DataError(
                f"{source} has {count} in row {row}, but --multi-label no (multi_label=False) "
                "means one label a row; leave it out."
            )
    return [(row, cell[0] if isinstance(cell, list) else cell) for row, cell in numbered]


def _label(cell: Any, several: bool) -> Label:
    if isinstance(cell, dict):
        flags = {str(name): _flag(value) for name, value in cast("dict[Any, Any]", cell).items()}
        return JudgedLabels(
            [name for name, flag in flags.items() if flag is True],
            [name for name, flag in flags.items() if flag is False],
        )
    if isinstance(cell, list):
        return tuple(str(item) for item in _items(cell))
    return (str(cell),) if several else str(cell)
