"""A data set made ready: texts and targets to train on, to validate on and to test on.

Promises the same rows for the same files and spec, on any machine. Does not know models or methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from pillion.core import Scope, Text
from pillion.data import (
    Label,
    LabelSpace,
    Rows,
    TableLayout,
    normalised,
    read_rows,
    said_in,
    split_validation,
)
from pillion.data.labels import Task
from pillion.errors import ConfigError, DataError, unknown_name
from pillion_bench.suite import DataSpec

PartName = str
"""`train`, `validation`, `test`, or the name of other rows that a method is asked about."""

LEADING = {
    "binary": ("f1", "auprc"),
    "multiclass": ("accuracy", "f1"),
    "multilabel": ("f1", "auprc"),
}
"""The metrics that lead a table, by task; the first of them chooses settings."""


def columns(
    targets: Shaped[np.ndarray, "row ..."], num_outputs: int
) -> Float[np.ndarray, "row output"]:
    """Zeros and ones of every output, in fp32.

    Args:
        targets: label ids, or 0/1 a label.
        num_outputs: columns; 1 for a binary task, whose ids are its zeros and ones.
    """
    if targets.ndim == 1 and num_outputs > 1:
        return np.eye(num_outputs, dtype=np.float32)[targets.astype(int)]
    return targets.reshape(len(targets), num_outputs).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a data set.

    Attributes:
        name: `train`, `validation` or `test`.
        texts: one a row: what the data set's scope reads; of `all` the turns one after the other.
        targets: as `LabelSpace.encode` gives them.
        store: which rows keep their states together: `train`, `validation` or `test`.
        row_ids: the rows of that store which these are.
    """

    name: PartName
    texts: tuple[str, ...]
    targets: Shaped[np.ndarray, "row ..."]
    store: PartName
    row_ids: Int[np.ndarray, " row"]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set, ready to be learnt and tested.

    Attributes:
        name: of the data set.
        spec: what it was made from.
        space: its labels.
        train: rows to learn from.
        validation: rows that everything is chosen on.
        test: rows that a locked run alone looks at; None in any other.
        stores: the texts whose states are kept together, by name; parts are rows of these.
        files: path, hash and use of every file.
        notes: what a reader of the numbers has to know.
        paths: what errors name stores by, where not by the data set's name and theirs.
    """

    name: str
    spec: DataSpec
    space: LabelSpace
    train: Part
    validation: Part
    test: Part | None
    stores: dict[PartName, tuple[Text, ...]]
    files: tuple[dict[str, str], ...]
    notes: tuple[str, ...] = ()
    paths: Mapping[PartName, str] = field(default_factory=dict[PartName, str])

    def where(self, store: PartName) -> str:
        """What an error names a store by."""
        return self.paths.get(store, f"{self.name}, {store}")

    @property
    def task(self) -> Task:
        """`binary`, `multiclass` or `multilabel`."""
        return self.space.task

    @property
    def num_outputs(self) -> int:
        """Columns of probabilities: one for a binary task, else one a label."""
        return 1 if self.task == "binary" else len(self.space.names)

    @property
    def leading(self) -> tuple[str, ...]:
        """The metrics that lead this data set's table."""
        return self.spec.metrics or LEADING[self.task]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All rows that may be read."""
        return (*self.chosen_on, *(() if self.test is None else (self.test,)))

    @property
    def chosen_on(self) -> tuple[Part, Part]:
        """Rows to learn from and to choose on."""
        return self.train, self.validation

    def unseen(self) -> Bool[np.ndarray, " row"]:
        """Test rows whose text stands in neither train nor validation, but for case and space."""
        known = {normalised(text) for part in self.chosen_on for text in part.texts}
        test = () if self.test is None else self.test.texts
        return np.array([normalised(text) not in known for text in test], dtype=bool)


def open_problem(name: str, spec: DataSpec, root: Path, *, locked: bool) -> Problem:
    """Reads the files of a data set and splits its rows.

    Args:
        name: of the data set.
        spec: its files, below `root`, and how they are split.
        root: folder of the data.
        locked: whether test rows may be read; else a file of them is not opened, and a share of the
            training rows that is held back as the test is in no part.

    Raises:
        DataError: a file, text or label that cannot be used.
        ConfigError: a label whose recall is wanted and which the data set does not have, or a scope
            of turns for raw texts.
    """
    if spec.scope != "all" and spec.template == "raw":
        raise ConfigError(
            f"Data set {name!r} reads the scope {spec.scope!r}, and raw texts have no turns; give "
            "it the template chat."
        )
    rows = {"train": _rows(spec.train, spec, root)}
    for split in ("validation", "test") if locked else ("validation",):
        source = getattr(spec, split)
        if isinstance(source, str):
            rows[split] = _rows(source, spec, root)
    space = LabelSpace.of(_labels(rows["train"]), spec.positive, rows["train"].several)
    for label in spec.recalls:
        if label not in space.names:
            raise unknown_name("label", label, space.names)
    files = tuple(_entry(read, split, getattr(spec, split)) for split, read in rows.items())
    stores: dict[PartName, tuple[Text, ...]] = {}
    ids: dict[PartName, np.ndarray] = {}
    for split, read in rows.items():
        limit = {"train": spec.max_train_rows, "test": spec.max_test_rows}.get(split)
        kept = drawn(len(read), limit, spec.seed)
        stores[split] = tuple(read.texts[row] for row in kept)
        try:
            ids[split] = space.encode(_chosen(_labels(read), kept))
        except DataError as error:
            raise DataError(f"{read.path}: {error}") from error
    if any(np.isnan(own).any() for own in ids.values()):
        raise DataError(
            f"{name}: some rows have labels that were not judged, which not every method can leave "
            "out; give rows that are judged on every label."
        )
    groups = _groups(rows["train"], spec)
    parts, notes = _parts(spec, stores, ids, groups, locked=locked)
    return Problem(name, spec, space, *parts, stores=stores, files=files, notes=notes)


def drawn(num_rows: int, limit: int | None, seed: int) -> Int[np.ndarray, " row"]:
    """At most so many row ids, drawn at random without repetition, ascending."""
    if limit is None or limit >= num_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).permutation(num_rows)[:limit])


def _parts(
    spec: DataSpec,
    stores: dict[PartName, tuple[Text, ...]],
    ids: dict[PartName, np.ndarray],
    groups: Int[np.ndarray, " row"],
    *,
    locked: bool,
) -> tuple[tuple[Part, Part, Part | None], tuple[str, ...]]:
    """Train, validation and test, and what there is to say of them."""
    notes: list[str] = []
    rest = np.arange(len(ids["train"]))
    chosen: dict[PartName, tuple[PartName, np.ndarray]] = {}
    held_out: tuple[PartName, ...] = ("test", "validation")
    for split in held_out:
        share = getattr(spec, split)
        if isinstance(share, str):
            if split in ids:
                chosen[split] = (split, np.arange(len(ids[split])))
            continue
        kept, held = split_validation(ids["train"][rest], share, spec.seed, groups[rest])
        if not len(held):
            notes.append(
                f"No row can be held out for {split} (every label has a single one): its numbers "
                "are of the training rows themselves."
            )
            held = kept
        here: tuple[PartName, np.ndarray] = ("train", rest[held])
        chosen[split], rest = here, rest[kept]
    chosen["train"] = ("train", rest)

    def part(name: PartName) -> Part:
        store, rows = chosen[name]
        texts = tuple(_said(stores[store][row], spec.scope, store, int(row) + 1) for row in rows)
        return Part(name, texts, ids[store][rows], store, rows)

    test = part("test") if locked else None
    return (part("train"), part("validation"), test), tuple(notes)


def _said(text: Text, scope: Scope, store: PartName, number: int) -> str:
    try:
        return said_in(text, scope)
    except DataError as error:
        raise DataError(f"{store}, row {number} of those drawn: {error}") from error


def _groups(rows: Rows, spec: DataSpec) -> Int[np.ndarray, " row"]:
    """Which of the drawn training rows belong together, by a number."""
    kept = drawn(len(rows), spec.max_train_rows, spec.seed)
    return kept if rows.groups is None else np.array(rows.groups)[kept]


def _chosen(labels: Sequence[Label], rows: Int[np.ndarray, " row"]) -> list[Label]:
    return [labels[int(row)] for row in rows]


def _rows(source: str, spec: DataSpec, root: Path) -> Rows:
    where = source if source.startswith("hf:") else str(root / source)
    layout = TableLayout(spec.messages_column, spec.prompt_column, spec.response_column)
    of_turns = layout != TableLayout()
    return read_rows(where, None if of_turns else spec.text_column, spec.label_column, layout)


def _labels(rows: Rows) -> Sequence[Label]:
    assert rows.labels is not None
    return rows.labels


def _entry(rows: Rows, split: str, source: str) -> dict[str, str]:
    return {"path": source, "sha256": rows.sha256, "split": split}
