"""The benchmark of the stream, from end to end on few rows: what it says of them is true."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore:Tip. In future versions of Ray:FutureWarning"),
]


def test_a_small_run_keeps_its_marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs pillion[ray]")
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    module = importlib.import_module("benchmarks.ray_stream")
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "write_result", lambda _, rows, **__: written.extend(rows))
    words = ["ray_stream", "--rows", "60000", "--files", "10", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", [*words, "--folder", str(tmp_path)])
    module.main()
    found = {(one["metric"], one.get("verb"), one.get("workers")): one for one in written}
    assert found["lines_that_differ_from_one_machine", None, None]["value"] == 0
    killed = found["tokens_of_the_second_driver", None, None]
    assert 0 <= killed["value"] < killed["baseline"]
    for verb in ("predict", "extract"):
        assert 0 < found["driver_peak_bytes", verb, None]["value"] < 600e6
        assert found["driver_last_third_bytes", verb, None]["ratio"] < 1.1
    assert all(one["value"] > 0 for one in written if one["metric"] == "rows_per_second")
    assert list(tmp_path.iterdir()) == []
