"""From rows to examples: one a row, or one for each turn that has a label.

Promises that every example knows its row and turn, and which others belong to its conversation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from pillion.core import Conversation, Scope, Text, Turn, role_of
from pillion.data.cells import UnusableCell
from pillion.data.judged_labels import Label
from pillion.data.label_cells import (
    Numbered,
    cell_fault,
    soft_fault,
    spelled_out,
    to_labels,
    to_soft,
)
from pillion.data.spelling import one_spelling
from pillion.data.turn_labels import has_turn_labels, is_null, turn_fault
from pillion.errors import DataError


class Origin(NamedTuple):
    """Where an example came from.

    Attributes:
        row: of the data, from 1.
        turn: whose label it has, from 1; None for a label of the whole row.
    """

    row: int
    turn: int | None = None


@dataclass
class LabelledExamples:
    """Texts with a label each, and the rows that give none.

    Attributes:
        texts: one an example.
        labels: one an example.
        origins: one an example.
        faults: by the place of the row, from 0.
        notes: what was recognised.
    """

    texts: list[Text] = field(default_factory=list[Text])
    labels: list[Label] = field(default_factory=list[Label])
    origins: list[Origin] = field(default_factory=list[Origin])
    faults: dict[int, UnusableCell] = field(default_factory=dict[int, UnusableCell])
    notes: list[str] = field(default_factory=list[str])


def as_examples(
    rows: Sequence[tuple[int, Text, Any]],
    turn_labels: bool | None,
    multi_label: bool | None,
    source: str,
    soft: bool = False,
) -> LabelledExamples:
    """Examples of rows that have a text.

    Args:
        rows: place (from 0), text and label cell of each.
        turn_labels: whether lists label turns; None to tell where only one reading is possible.
        multi_label: whether a row may have any number of labels; None to tell by the cells.
        source: what errors call the table.
        soft: whether cells are mappings of names to probabilities.

    Raises:
        DataError: labels of several kinds, or lists that can be read in two ways.
    """
    found = LabelledExamples()
    numbered: Numbered = [(place + 1, cell) for place, _, cell in rows]
    if multi_label is not False or turn_labels:
        numbered, note = spelled_out(numbered, source)
        found.notes += [note] if note else []
    texts = [text for _, text, _ in rows]
    if soft:
        turn_labels = False
    if turn_labels is None:
        cells, numbers = [cell for _, cell in numbered], [row for row, _ in numbered]
        turn_labels = has_turn_labels(cells, texts, numbers, source)
        if turn_labels:
            found.notes.append(f"{source}: lists of labels hold one for each turn.")
    cells = _add(found, numbered, texts, turn_labels, soft_fault if soft else cell_fault)
    if not cells:
        return found
    labels, notes = (to_soft(cells), []) if soft else to_labels(cells, multi_label, source)
    found.labels, more = one_spelling(labels, [row for row, _ in cells])
    found.notes += [*notes, *(f"{source}: {note}" for note in more)]
    return found


def _add(
    found: LabelledExamples,
    numbered: Numbered,
    texts: Sequence[Text],
    turn_labels: bool,
    fault_of: Callable[[Any], UnusableCell | None],
) -> Numbered:
    """Adds texts and origins; gives the label cell of each."""
    cells: Numbered = []
    for (row, cell), text in zip(numbered, texts, strict=True):
        fault = turn_fault(cell, text) if turn_labels else None
        pairs = [(None, cell)] if not turn_labels or fault else _judged_turns(cell)
        fault = fault or next((bad for _, one in pairs if (bad := fault_of(one))), None)
        if fault:
            found.faults[row - 1] = fault
            continue
        for turn, one in pairs:
            found.texts.append(text if turn is None else text[:turn])
            found.origins.append(Origin(row, turn))
            cells.append((row, one))
    return cells


def _judged_turns(cell: Any) -> list[tuple[int | None, Any]]:
    """Number (from 1) and label of each turn that has one."""
    each = enumerate(cast("list[Any]", cell), 1)
    return [(number, one) for number, one in each if not is_null(one)]


def groups_of(texts: Sequence[Text], origins: Sequence[Origin]) -> tuple[int, ...] | None:
    """A number an example, the same for those of one row and for answers to the same prompt.

    None where every example is by itself.
    """
    numbers: dict[object, int] = {}
    groups = tuple(
        numbers.setdefault(_key(text, origin), len(numbers))
        for text, origin in zip(texts, origins, strict=True)
    )
    return groups if len(numbers) < len(texts) else None


def _key(text: Text, origin: Origin) -> object:
    answers = not isinstance(text, str) and len(text) > 1 and text[-1].role == "assistant"
    if origin.turn is not None or isinstance(text, str) or not answers:
        return origin.row
    return json.dumps(plain_turns(text[:-1]))


def flat_text(text: Text) -> str:
    """A text as one string; of a conversation its turns one after the other, each with its role."""
    if isinstance(text, str):
        return text
    return "\n".join(f"{turn.role}: {turn.content}" for turn in text)


def normalised(text: str) -> str:
    """The text without case, with one space where there is white space."""
    return " ".join(text.casefold().split())


def said_in(text: Text, scope: Scope) -> str:
    """What a scope's turns say, one after the other; of `all` as `flat_text` has it.

    Args:
        text: a text by itself is the user's only turn.
        scope: whose turns.

    Raises:
        DataError: no turn of the scope.
    """
    return flat_text(text) if scope == "all" else "\n".join(words_in(text, scope))


def words_in(text: Text, scope: Scope) -> list[str]:
    """What each of a scope's turns says; see `said_in`."""
    turns = _turns(text)
    return [turns[place].content for place in _read_turns(turns, scope)]


def with_words(text: Text, scope: Scope, words: Sequence[str]) -> Text:
    """The same text, of which the scope's turns say something else.

    Args:
        text: a text by itself is the user's only turn.
        scope: whose turns.
        words: as many as `words_in` gives.

    Raises:
        DataError: no turn of the scope.
    """
    turns = list(_turns(text))
    for place, said in zip(_read_turns(turns, scope), words, strict=True):
        turns[place] = replace(turns[place], content=said)
    return turns[0].content if isinstance(text, str) else tuple(turns)


def _turns(text: Text) -> Conversation:
    return (Turn("user", text),) if isinstance(text, str) else text


def _read_turns(turns: Sequence[Turn], scope: Scope) -> list[int]:
    """Places of the turns that a scope reads."""
    role = role_of(scope)
    own = [place for place, turn in enumerate(turns) if scope == "all" or turn.role == role]
    if not own:
        raise DataError(
            f"no turn of the {role} is there, which the scope {scope!r} reads; give such a turn, "
            "or read another scope."
        )
    return own[-1:] if scope in ("last-user", "response") else own


def plain_turns(text: Text) -> Any:
    """A text as JSON values: itself, or a mapping a turn."""
    if isinstance(text, str):
        return text
    return [{"role": turn.role, "content": turn.content, **turn.more} for turn in text]
