"""Where the text of a row stands in a table, and how the table is written.

Promises the columns to read, or a sentence that says what there is instead. Knows
names of columns, no cell.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pillion.errors import ConfigError, DataError, MissingColumn

Form = Literal["text", "messages", "prompt"]
"""Of a row: a text, a list of messages, or a prompt and its response."""

TEXT, LABEL, TURN_LABELS, SOFT_LABELS = "text", "label", "turn_labels", "soft_labels"
MESSAGES = ("messages", "conversations")
PROMPT, RESPONSE = "prompt", "response"


@dataclass(frozen=True)
class TableLayout:
    """How rows lie in a table, beyond the usual; the defaults find it out.

    Attributes:
        messages_column: column of the conversations, if rows are such.
        prompt_column: column of the prompts, texts or messages, if rows are prompt and response.
        response_column: column of the answers to them.
        label_columns: columns of zeros and ones, one a label, in the place of the label column;
            empty where not judged.
        turn_labels: whether a list in the label column holds a label for each turn of its row;
            None where only one reading is possible.
        multi_label: whether a row may have any number of labels; None to tell by the labels.
        delimiter: between the fields of a CSV file, one character; None to tell by its header.
        encoding: of text files, a name that Python knows; None for UTF-8, or a guess that is said.
        skip_bad_rows: leave out rows that cannot be used, and keep their reasons.
        soft: whether the label column holds mappings of names to probabilities.
        some_columns: whether a table may lack label columns, though not all of them.

    Raises:
        ConfigError: options that contradict each other.
    """

    messages_column: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    label_columns: tuple[str, ...] = ()
    turn_labels: bool | None = None
    multi_label: bool | None = None
    delimiter: str | None = None
    encoding: str | None = None
    skip_bad_rows: bool = False
    soft: bool = False
    some_columns: bool = False

    def __post_init__(self) -> None:
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ConfigError(f"The delimiter is {self.delimiter!r}; give one character.")
        if self.label_columns and self.multi_label is False:
            raise ConfigError(
                "Label columns say which of several labels a row has; leave out multi_label=False "
                "(--multi-label no), or name one label column."
            )
        if self.label_columns and self.turn_labels:
            raise ConfigError("Label columns hold labels of rows, not of turns; give one of them.")
        if self.soft and (self.label_columns or self.turn_labels or self.multi_label is False):
            raise ConfigError(
                "Probabilities stand in one column, of any number of labels a row; leave out the "
                "settings of other labels."
            )
        if self.messages_column and (self.prompt_column or self.response_column):
            raise ConfigError("Rows are messages, or prompt and response; name columns of one.")


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read.

    Attributes:
        form: what the row's text is made of.
        text: its columns; two for prompt and response.
        labels: columns of labels; none where they are not asked for.
        turn_labels: whether the label column is one of labels a turn by its very name.
        soft: whether it holds probabilities.
        notes: what was found out, for the user.
    """

    form: Form
    text: tuple[str, ...]
    labels: tuple[str, ...] = ()
    turn_labels: bool = False
    soft: bool = False
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys((*self.text, *self.labels)))


def choose_columns(
    present: Sequence[str],
    source: str,
    text_column: str | None,
    label_column: str | None,
    layout: TableLayout,
) -> Columns:
    """The columns that hold texts and labels.

    Args:
        present: columns of the table.
        source: what errors call the table.
        text_column: column of the texts; None for `text`, else that of a conversation.
        label_column: column of the labels; None to read texts alone.
        layout: what else was asked for.

    Raises:
        MissingColumn: a missing column; `holds` says what it should hold.
        DataError: a column that is there twice.
        ConfigError: `text_column` beside the columns of a conversation.
    """
    form, text, notes = _text_columns(present, source, text_column, layout)
    labels: tuple[str, ...] = ()
    turn_labels, soft = False, layout.soft
    if label_column is not None:
        labels = layout.label_columns or (label_column,)
        if layout.some_columns:
            labels = tuple(name for name in labels if name in present) or labels
        if labels == (LABEL,) and LABEL not in present and TURN_LABELS in present:
            labels, turn_labels = (TURN_LABELS,), True
            notes += (f"{source}: labels are those of the turns, in column {TURN_LABELS!r}.",)
        elif labels == (LABEL,) and LABEL not in present and SOFT_LABELS in present:
            labels, soft = (SOFT_LABELS,), True
            notes += (f"{source}: labels are probabilities, in column {SOFT_LABELS!r}.",)
    found = Columns(form, text, labels, turn_labels, soft, notes)
    try:
        check_columns(present, found.names, source)
    except MissingColumn as error:
        if (missing := next(name for name in found.names if name not in present)) in text:
            error.holds = "text" if text_column is None and text == (TEXT,) else None
        elif missing == LABEL:
            error.holds = "label"
        raise
    return found


def _text_columns(
    present: Sequence[str], source: str, text_column: str | None, layout: TableLayout
) -> tuple[Form, tuple[str, ...], tuple[str, ...]]:
    asked = layout.messages_column or layout.prompt_column or layout.response_column
    if asked and text_column is not None:
        raise ConfigError(
            f"Rows are texts ({text_column!r}) or conversations ({asked!r}); name columns of one."
        )
    if layout.messages_column:
        return "messages", (layout.messages_column,), ()
    if asked:
        pair = (layout.prompt_column or PROMPT, layout.response_column or RESPONSE)
        return "prompt", pair, ()
    if text_column is not None or TEXT in present:
        return "text", (text_column or TEXT,), ()
    for name in MESSAGES:
        if name in present:
            return "messages", (name,), (f"{source}: rows are conversations, in column {name!r}.",)
    if PROMPT in present and RESPONSE in present:
        note = f"{source}: rows are a prompt and its response, in columns of these names."
        return "prompt", (PROMPT, RESPONSE), (note,)
    return "text", (TEXT,), ()


def check_columns(present: Sequence[str], names: Sequence[str], source: str) -> None:
    """Refuses a table in which an asked column is missing or there twice.

    Args:
        present: columns of the table.
        names: columns that are wanted.
        source: what the error calls the table.

    Raises:
        MissingColumn: naming the column, the columns present and the nearest one.
        DataError: a column that is there twice.
    """
    for name in names:
        if name not in present:
            raise _missing_column(present, name, source)
        if list(present).count(name) > 1:
            raise DataError(
                f"{source} has more than one column named {name!r}; rename all but one."
            )


def _missing_column(present: Sequence[str], name: str, source: str) -> MissingColumn:
    known = ", ".join(repr(column) for column in present) or "none"
    near = difflib.get_close_matches(name, present, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return MissingColumn(
        f"{source} has no column {name!r}; its columns are: {known}. Name one of them.{hint}"
    )
