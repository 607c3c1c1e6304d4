"""What tests of the command line share: what a run left behind, and small data files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXTS = (
    "what a lovely day {}",
    "good work, thank you {}",
    "awful, it broke {}",
    "bad, bad idea {}",
)
LABELS = ("fine", "fine", "poor", "poor")


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]
Refused = Callable[..., str]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """JSON Lines."""
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(content, encoding="utf-8")
    return path


def two_classes(num_rows: int) -> list[dict[str, Any]]:
    return [{"text": TEXTS[i % 4].format(i), "label": LABELS[i % 4]} for i in range(num_rows)]
