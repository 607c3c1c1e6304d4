"""Every benchmark can be started."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from pillion.data import Rows, read_rows

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_finds_everything_it_imports(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__
    if name not in ("engines", "result_file"):
        assert callable(module.main)


def test_the_study_of_toxicchat_reads_no_test_row_before_it_is_locked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(FOLDER.parent)
    module = importlib.import_module("benchmarks.real")
    lines = [
        json.dumps({"text": f"text {i}", "label": ["fine", "toxic"][i % 3 == 0]}) for i in range(60)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    opened: list[str] = []

    def read(path: Path, *_: object, **__: object) -> Rows:
        opened.append(path.name)
        return read_rows(tmp_path / "train.jsonl")

    monkeypatch.setattr(module, "read_rows", read)
    train, held, others = module.development_rows()
    assert opened == ["train.parquet"] and others == []
    assert len(train) == 48 and not set(train.texts) & set(held.texts)
    assert set(train.texts) | set(held.texts) == {f"text {i}" for i in range(60)}
