"""The options of every verb that reads rows, in one place, and the rows that they mean.

A verb with a parameter of `RowOptions` or `TextOptions` that is marked with `takes_rows` gets their
options in its place. What was found out of a table is said on standard error. Reads no model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pillion.cli.app import err

if TYPE_CHECKING:
    from pillion.data import Rows, TableLayout, Texts

TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        help="Column of the texts; default: text, else that of a conversation, which is said.",
    ),
]
MessagesColumn = Annotated[
    str | None,
    typer.Option(
        "--messages-column",
        help="Column of conversations: lists of role and content, or such lists in JSON.",
    ),
]
PromptColumn = Annotated[
    str | None,
    typer.Option(
        "--prompt-column", help="Column of prompts, texts or messages, of rows with a response."
    ),
]
ResponseColumn = Annotated[
    str | None, typer.Option("--response-column", help="Column of the answers to the prompts.")
]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Column of the labels.")]
LabelColumns = Annotated[
    str | None,
    typer.Option(
        "--label-columns",
        metavar="A,B,C",
        help="Columns of zeros and ones instead, one a label; an empty cell: nobody judged.",
    ),
]
SoftColumn = Annotated[
    str | None,
    typer.Option(
        "--soft-column",
        metavar="NAME",
        help="Column of objects instead, label -> probability, as pillion label writes them.",
    ),
]
TurnLabels = Annotated[
    bool | None,
    typer.Option(
        "--turn-labels/--row-labels",
        help="Whether a list in the label column holds a label (or null) for each turn.",
    ),
]
MultiLabel = Annotated[
    Literal["yes", "no"] | None,
    typer.Option(
        "--multi-label", help="Whether a row may have any number of labels; default: by the labels."
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option("--delimiter", help="Between the fields of CSV files; default: found, and said."),
]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", help="Of CSV and JSON Lines files; default: UTF-8, or found."),
]
SkipBadRows = Annotated[
    bool,
    typer.Option(
        "--skip-bad-rows",
        help="Leave out rows that cannot be used; NAME.failed.jsonl beside --out says why.",
    ),
]


@dataclass(frozen=True)
class TextOptions:
    """How texts are read.

    Attributes:
        text_column: column of the texts; None to find it.
        layout: the other columns, and how the table is written; None for the usual.
        given: the options that were given, by the names of their parameters.
    """

    text_column: str | None = None
    layout: TableLayout | None = None

    given: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def skip_bad_rows(self) -> bool:
        """Whether rows that cannot be used are left out."""
        return self.layout is not None and self.layout.skip_bad_rows

    def words(self) -> list[str]:
        """The options that read the same rows again, as one types them."""
        words: list[str] = []
        for name, value in self.given.items():
            option = f"--{name.replace('_', '-')}"
            if name == "turn_labels":
                words += ["--turn-labels" if value else "--row-labels"]
            else:
                words += [option] if value is True else [option, str(value)]
        return words

    def texts(self, source: str) -> Texts:
        """The texts of a source; see `read_texts`."""
        from pillion.data import read_texts

        texts = read_texts(source, self.text_column, self.layout)
        for note in texts.notes:
            err.print(note)
        return texts


@dataclass(frozen=True)
class RowOptions(TextOptions):
    """How labelled rows are read.

    Attributes:
        label_column: column of the labels.
    """

    label_column: str = "label"

    def rows(self, source: str, label_column: str | None = None) -> Rows:
        """The labelled rows of a source; see `read_rows`.

        Args:
            source: file, folder, pattern, URL or data set.
            label_column: another column than the one that was asked for.
        """
        from pillion.data import read_rows

        label_column = label_column or self.label_column
        rows = read_rows(source, self.text_column, label_column, self.layout)
        for note in rows.notes:
            err.print(note)
        return rows


_TABS = {"\\t": "\t", "tab": "\t"}
"""How a tab is given where a shell would keep it."""

USUAL_TEXTS, USUAL_ROWS = TextOptions(), RowOptions()


def _text_options(
    text_column: TextColumn = None,
    messages_column: MessagesColumn = None,
    prompt_column: PromptColumn = None,
    response_column: ResponseColumn = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
) -> TextOptions:
    from pillion.data import TableLayout

    layout = TableLayout(
        messages_column,
        prompt_column,
        response_column,
        delimiter=_TABS.get(delimiter or "", delimiter),
        encoding=encoding,
        skip_bad_rows=skip_bad_rows,
    )
    return TextOptions(text_column, layout)


def _row_options(
    text_column: TextColumn = None,
    messages_column: MessagesColumn = None,
    prompt_column: PromptColumn = None,
    response_column: ResponseColumn = None,
    label_column: LabelColumn = "label",
    label_columns: LabelColumns = None,
    soft_column: SoftColumn = None,
    turn_labels: TurnLabels = None,
    multi_label: MultiLabel = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    skip_bad_rows: SkipBadRows = False,
) -> RowOptions:
    from pillion.data import TableLayout

    names = [] if label_columns is None else [name.strip() for name in label_columns.split(",")]
    layout = TableLayout(
        messages_column,
        prompt_column,
        response_column,
        tuple(name for name in names if name),
        turn_labels,
        None if multi_label is None else multi_label == "yes",
        _TABS.get(delimiter or "", delimiter),
        encoding,
        skip_bad_rows,
        soft_column is not None,
    )
    return RowOptions(text_column, layout, label_column=soft_column or label_column)


_MAKERS: dict[type, Callable[..., TextOptions]] = {
    TextOptions: _text_options,
    RowOptions: _row_options,
}


def takes_rows(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with one option each in the place of its parameter of row options."""
    known = inspect.signature(verb, eval_str=True)
    (place,) = (one for one in known.parameters.values() if one.annotation in _MAKERS)
    make = _MAKERS[place.annotation]
    added = inspect.signature(make, eval_str=True).parameters
    usual = {name: one.default for name, one in added.items()}

    @functools.wraps(verb)
    def with_options(**given: Any) -> None:
        own = {name: given.pop(name) for name in added}
        told = {name: value for name, value in own.items() if value != usual[name]}
        verb(**given, **{place.name: replace(make(**own), given=told)})

    parameters: list[inspect.Parameter] = []
    for one in known.parameters.values():
        parameters += added.values() if one is place else [one]
    # typer reads both.
    with_options.__signature__ = known.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_options
