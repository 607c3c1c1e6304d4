"""What a run leaves on disk: one small file a cell (data set, method, seed), so that it can go on.

Promises that a cell is whole or not there, and that one made from other settings, data or model
is not taken for this one. Does not know what the numbers mean.

    folder/
    ├── cells/DATA/METHOD/seed-0.json          metrics, and what was chosen
    ├── cells/DATA/METHOD/seed-0.safetensors   probabilities of validation rows
    ├── locked/DATA/METHOD/...                 the same of a locked run, and of test rows
    ├── times/DATA/METHOD.json                 what the method adds while a text is served
    ├── work/                                  what an interrupted method goes on from
    └── accuracy-DATA[-validation].json        the result file, merged
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pillion.core.files import replace_file

FORMAT = 2
"""Raise it when cells are computed otherwise: older ones are then made anew."""


@dataclass(frozen=True)
class Cell:
    """One method on one data set with one seed.

    Attributes:
        facts: what its JSON file holds.
        probs: `validation`, and `test` if locked, one row a text; empty where the method was not
            used.
    """

    facts: dict[str, Any]
    probs: Mapping[str, np.ndarray]


class RunFolder:
    """The folder of a run.

    Args:
        path: made when something is written.
        locked: whether its cells are those of test rows, too.
    """

    def __init__(self, path: Path, *, locked: bool) -> None:
        self.path, self._cells = path, "locked" if locked else "cells"

    def cell(self, data: str, method: str, seed: int, digest: str) -> Cell | None:
        """The cell, if it is there and made from what the digest stands for."""
        path = self._cell(data, method, seed)
        facts = read_json(path)
        if facts is None or facts.get("digest") != digest:
            return None
        if facts.get("not_measured"):
            return Cell(facts, {})
        try:
            return Cell(facts, load(path.with_suffix(".safetensors").read_bytes()))
        except (OSError, SafetensorError):
            return None

    def keep_cell(self, data: str, method: str, seed: int, cell: Cell) -> None:
        """Writes a cell, probabilities first: its JSON says that it is whole.

        An older cell's JSON goes before: it would say so of these probabilities.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._cell(data, method, seed)
        with suppress(OSError):  # what cannot be deleted cannot be replaced either, and is told
            path.unlink()
        if cell.probs:
            replace_file(path.with_suffix(".safetensors"), save(dict(cell.probs)))
        write_json(path, cell.facts)

    def times(self, data: str, method: str, digest: str) -> dict[str, Any] | None:
        """What was measured of the method's time, if it was of what the digest stands for."""
        facts = read_json(self._times(data, method))
        return facts if facts is not None and facts.get("digest") == digest else None

    def keep_times(self, data: str, method: str, facts: dict[str, Any]) -> None:
        """Writes down what was measured of a method's time."""
        write_json(self._times(data, method), facts)

    def work(self, digest: str) -> Path:
        """A folder for a method that is being fitted."""
        return self.path / "work" / digest[:16]

    def clear_work(self, digest: str) -> None:
        """Deletes it: what lies there may be as sensitive as the texts."""
        shutil.rmtree(self.work(digest), ignore_errors=True)

    def _cell(self, data: str, method: str, seed: int) -> Path:
        return self.path / self._cells / data / method / f"seed-{seed}.json"

    def _times(self, data: str, method: str) -> Path:
        return self.path / "times" / data / f"{method}.json"


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what a cell is made from."""
    content = json.dumps({"format": FORMAT, **facts}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is none that can be read."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON object whole or not at all; NaN is none of its values."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, text.encode())
