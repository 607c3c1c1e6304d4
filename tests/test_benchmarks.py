"""Every benchmark can be started."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

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
