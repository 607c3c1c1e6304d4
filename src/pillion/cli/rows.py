"""The options of every verb that reads rows, in one place, and the rows that they mean.

Groups of options for `takes_options`. What was found out of a table is said on standard error.
Reads no model.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pillion.cli.app import err
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.data import Rows, TableLayout, Texts

TABS = {"\\t": "\t", "tab": "\t"}
"""How a tab is given where a shell would keep it."""

TextColumn = Annotated[
    str | None,
    typer.Option(
        "--text-column",
        help="Column of the texts; default: text, or one of conversations, as a note says.",
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
        help="Columns of zeros and ones instead, one a label; an empty cell: not judged.",
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
    typer.Option(
        "--delimiter", help="Between the fields of CSV files; default: detected; a note says which."
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", help="Of CSV and JSON Lines files; default: UTF-8, or detected."),
]
SkipBadRows = Annotated[
    bool,
    typer.Option(
        "--skip-bad-rows",
        help="Leave out rows that cannot be used; NAME.failed.jsonl beside --out says why.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Where the text of a row stands."""

    text_column: TextColumn = None
    messages_column: MessagesColumn = None
    prompt_column: PromptColumn = None
    response_column: ResponseColumn = None


@dataclass(frozen=True, kw_only=True)
class LabelOptions(ColumnOptions):
    """Where its labels stand."""

    label_column: LabelColumn = "label"
    label_columns: LabelColumns = None
    soft_column: SoftColumn = None
    turn_labels: TurnLabels = None
    multi_label: MultiLabel = None


@dataclass(frozen=True, kw_only=True)
class TextOptions(ColumnOptions):
    """How texts are read.

    Raises:
        ConfigError: options that contradict each other.
    """

    delimiter: Delimiter = None
    encoding: Encoding = None
    skip_bad_rows: SkipBadRows = False

    def __post_init__(self) -> None:
        self.layout()  # refuses what contradicts itself before any work

    def layout(self, **more: Any) -> TableLayout:
        """The columns but for text and label, and how the table is written.

        Args:
            more: of `TableLayout`.
        """
        from pillion.data import TableLayout

        return TableLayout(
            self.messages_column,
            self.prompt_column,
            self.response_column,
            delimiter=TABS.get(self.delimiter or "", self.delimiter),
            encoding=self.encoding,
            skip_bad_rows=self.skip_bad_rows,
            **more,
        )

    def words(self) -> list[str]:
        """The options that read the same rows again, as one types them."""
        words: list[str] = []
        for one in fields(self):
            value, option = getattr(self, one.name), f"--{one.name.replace('_', '-')}"
            if value == one.default:
                continue
            if one.name == "turn_labels":
                words += ["--turn-labels" if value else "--row-labels"]
            else:
                words += [option] if value is True else [option, str(value)]
        return words

    def texts(self, source: str) -> Texts:
        """The texts of a source; see `read_texts`."""
        from pillion.data import read_texts

        texts = read_texts(source, self.text_column, self.layout())
        for note in texts.notes:
            err.print(note)
        return texts


@dataclass(frozen=True, kw_only=True)
class RowOptions(TextOptions, LabelOptions):  # the options of the second base stand first
    """How labelled rows are read.

    Raises:
        ConfigError: options that contradict each other.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        others = {"--soft-column": self.soft_column, "--label-columns": self.label_columns}
        instead = next((option for option, value in others.items() if value is not None), None)
        if instead is not None and self.label_column != LabelOptions.label_column:
            raise ConfigError(
                f"Got --label-column {self.label_column} beside {instead}, and labels stand in one "
                "place; give one of them."
            )

    def layout(self, **more: Any) -> TableLayout:
        """The columns but for text and label, and how the table is written.

        Args:
            more: of `TableLayout`, in the place of what the options say.
        """
        names = (name.strip() for name in (self.label_columns or "").split(","))
        own = {
            "label_columns": tuple(name for name in names if name),
            "turn_labels": self.turn_labels,
            "multi_label": None if self.multi_label is None else self.multi_label == "yes",
            "soft": self.soft_column is not None,
        }
        return super().layout(**own | more)

    def rows(self, source: str, label_column: str | None = None, **more: Any) -> Rows:
        """The labelled rows of a source; see `read_rows`.

        Args:
            source: file, folder, pattern, URL or data set.
            label_column: another column than the one that was asked for.
            more: of the layout, likewise.
        """
        from pillion.data import read_rows

        labels = label_column or self.soft_column or self.label_column
        rows = read_rows(source, self.text_column, labels, self.layout(**more))
        for note in rows.notes:
            err.print(note)
        return rows
