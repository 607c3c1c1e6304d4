"""What a run keeps is whole or not there, and is never taken for another's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pillion_bench import run_folder
from pillion_bench.run_folder import Cell, RunFolder, digest_of, read_json, write_json

PROBS = {"validation": np.array([[0.25], [0.75]], dtype=np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", locked=False)


def kept(folder: RunFolder, **facts: object) -> Path:
    """A cell on disk; gives the path of its JSON."""
    folder.keep_cell("mood", "gate", 0, Cell({"digest": "d", **facts}, PROBS))
    return folder.path / "cells" / "mood" / "gate" / "seed-0.json"


def test_a_cell_comes_back_as_it_was_kept(folder: RunFolder) -> None:
    assert folder.cell("mood", "gate", 0, "d") is None, "nothing is there yet"
    kept(folder, seed=0)
    found = folder.cell("mood", "gate", 0, "d")
    assert found is not None and found.facts == {"digest": "d", "seed": 0}
    np.testing.assert_array_equal(found.probs["validation"], PROBS["validation"])


def test_a_cell_of_other_settings_seed_or_rows_is_not_taken_for_this_one(folder: RunFolder) -> None:
    kept(folder)
    assert folder.cell("mood", "gate", 0, "other") is None
    assert folder.cell("mood", "gate", 1, "d") is None
    assert folder.cell("mood", "mha", 0, "d") is None
    assert RunFolder(folder.path, locked=True).cell("mood", "gate", 0, "d") is None


@pytest.mark.parametrize("broken", ["facts", "probs", "no probs", "a list"])
def test_a_cell_that_is_not_whole_is_not_there(folder: RunFolder, broken: str) -> None:
    path = kept(folder)
    probs = path.with_suffix(".safetensors")
    if broken == "facts":
        path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    elif broken == "a list":
        path.write_text("[]", encoding="utf-8")
    elif broken == "probs":
        probs.write_bytes(probs.read_bytes()[:-3])
    else:
        probs.unlink()
    assert folder.cell("mood", "gate", 0, "d") is None


def test_the_probabilities_are_written_before_what_says_that_they_are_whole(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    replace_file = run_folder.replace_file

    def noted(path: Path, content: bytes) -> None:
        written.append(path.suffix)
        replace_file(path, content)

    monkeypatch.setattr(run_folder, "replace_file", noted)
    kept(folder)
    assert written == [".safetensors", ".json"]


def test_a_cell_whose_successor_was_not_finished_is_not_there(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its facts stood beside the other's probabilities."""
    kept(folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_json", interrupted)
    other = Cell({"digest": "other"}, {"validation": 1 - PROBS["validation"]})
    with pytest.raises(KeyboardInterrupt):
        folder.keep_cell("mood", "gate", 0, other)
    assert folder.cell("mood", "gate", 0, "d") is None
    assert folder.cell("mood", "gate", 0, "other") is None


def test_a_method_that_could_not_be_used_has_a_cell_without_probabilities(
    folder: RunFolder,
) -> None:
    folder.keep_cell("mood", "lora", 0, Cell({"digest": "d", "not_measured": "needs peft"}, {}))
    found = folder.cell("mood", "lora", 0, "d")
    assert found is not None and not found.probs and found.facts["not_measured"] == "needs peft"


def test_times_are_known_by_what_they_were_measured_of(folder: RunFolder) -> None:
    folder.keep_times("mood", "gate", {"digest": "d", "added_ms": 1.5})
    assert folder.times("mood", "gate", "d") == {"digest": "d", "added_ms": 1.5}
    assert folder.times("mood", "gate", "e") is None
    assert folder.times("other", "gate", "d") is None


def test_what_an_interrupted_method_left_is_deleted_and_may_be_gone_already(
    folder: RunFolder,
) -> None:
    work = folder.work("a" * 64)
    assert work == folder.path / "work" / ("a" * 16)
    work.mkdir(parents=True)
    (work / "states").write_bytes(b"as sensitive as the texts")
    folder.clear_work("a" * 64)
    assert not work.exists()
    folder.clear_work("a" * 64)


def test_a_digest_is_of_every_fact_in_any_order_and_of_how_cells_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = digest_of({"data": {"train": "é", "seed": 0}, "seed": 1})
    assert one == digest_of({"seed": 1, "data": {"seed": 0, "train": "é"}})
    assert len(one) == 64
    others = [{"data": {"train": "é", "seed": 1}, "seed": 1}, {"data": {}, "seed": 1}]
    assert all(digest_of(other) != one for other in others)
    monkeypatch.setattr(run_folder, "FORMAT", run_folder.FORMAT + 1)
    assert digest_of({"data": {"train": "é", "seed": 0}, "seed": 1}) != one


def test_nan_is_no_number_of_a_file_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.json"
    write_json(path, {"value": 1.0, "name": "é"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"value": float("nan")})
    assert read_json(path) == {"value": 1.0, "name": "é"} == json.loads(path.read_text("utf-8"))
    assert read_json(tmp_path / "none.json") is None
