"""Data sets on the hub, with a stand-in for the `datasets` package; no network is reached."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from pillion.data import read_rows
from pillion.errors import ConfigError, DataError


class FakeDataset:
    """What of a `datasets.Dataset` is used: column names, features and columns."""

    def __init__(self, columns: dict[str, list[Any]], names: list[str] | None = None) -> None:
        self.column_names = list(columns)
        self.features = {name: SimpleNamespace() for name in columns}
        if names is not None:
            self.features["label"] = SimpleNamespace(names=names)
        self._columns = columns

    def __getitem__(self, name: str) -> list[Any]:
        return self._columns[name]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], FakeDataset]:
    """Data sets by name and split, found by a `datasets` package that knows no others."""
    known: dict[tuple[str, str], FakeDataset] = {}

    def load_dataset(name: str, split: str) -> FakeDataset:
        if (name, split) not in known:
            raise FileNotFoundError(f"no {name} {split}")
        return known[name, split]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return known


def test_the_train_split_is_read_by_default(hub: dict[tuple[str, str], FakeDataset]) -> None:
    hub["org/name", "train"] = FakeDataset({"text": ["x", "y"], "label": ["a", "b"]})
    rows = read_rows("hf:org/name")
    assert (rows.texts, rows.labels, rows.path) == (("x", "y"), ("a", "b"), "hf:org/name")


def test_another_split_can_be_named(hub: dict[tuple[str, str], FakeDataset]) -> None:
    hub["name", "test"] = FakeDataset({"text": ["z"]})
    assert read_rows("hf:name:test", label_column=None).texts == ("z",)


def test_ids_of_a_class_column_become_its_names(hub: dict[tuple[str, str], FakeDataset]) -> None:
    columns = {"text": ["x", "y"], "label": [1, 0]}
    hub["name", "train"] = FakeDataset(columns, names=["ham", "spam"])
    assert read_rows("hf:name").labels == ("spam", "ham")


def test_a_class_id_without_a_name_is_a_missing_label(
    hub: dict[tuple[str, str], FakeDataset],
) -> None:
    hub["name", "test"] = FakeDataset({"text": ["x"], "label": [-1]}, names=["ham", "spam"])
    with pytest.raises(DataError, match="hf:name:test has an empty or null label"):
        read_rows("hf:name:test")


def test_the_hash_follows_the_columns_that_are_read(
    hub: dict[tuple[str, str], FakeDataset],
) -> None:
    hub["name", "train"] = FakeDataset({"text": ["x"], "label": ["a"], "other": [1]})
    hub["name", "other"] = FakeDataset({"text": ["x"], "label": ["a"], "other": [2]})
    hub["name", "test"] = FakeDataset({"text": ["x"], "label": ["b"], "other": [1]})
    names = ("hf:name", "hf:name:other", "hf:name:test")
    first, same, changed = (read_rows(name).sha256 for name in names)
    assert first == same
    assert first != changed
    assert len(first) == 64


def test_a_data_set_that_is_not_there_is_refused(hub: dict[tuple[str, str], FakeDataset]) -> None:
    with pytest.raises(DataError, match=r"hf:none cannot be loaded from the hub \(no none train\)"):
        read_rows("hf:none")


def test_a_missing_column_is_refused(hub: dict[tuple[str, str], FakeDataset]) -> None:
    hub["name", "train"] = FakeDataset({"sentence": ["x"]})
    with pytest.raises(DataError, match="no column 'text'; its columns are: 'sentence'"):
        read_rows("hf:name", label_column=None)


def test_without_the_package_the_extra_to_install_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"install pillion\[data\]"):
        read_rows("hf:name")
