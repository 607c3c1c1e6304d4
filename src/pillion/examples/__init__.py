"""Four small labelled sets written for this project: intent, sentiment, safety and answers.

Each row has a text, or (answers) a prompt and its response, a label, and whether it is `train` or
`heldout`; no held-out row is a near-duplicate of a training row.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources

from pillion.core import Text, Turn
from pillion.data import Rows
from pillion.errors import unknown_name

NAMES = ("safety", "intent", "sentiment", "answers")
SPLITS = ("train", "heldout")


def load_example(name: str, split: str) -> Rows:
    """The rows of one split of a bundled set.

    Args:
        name: one of `NAMES`.
        split: `train` or `heldout`.

    Raises:
        ConfigError: another name or split.
    """
    if name not in NAMES:
        raise unknown_name("example", name, NAMES)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    content = resources.files("pillion.examples").joinpath(f"{name}.jsonl").read_bytes()
    rows = [json.loads(line) for line in content.decode().splitlines()]
    rows = [row for row in rows if row["split"] == split]
    return Rows(
        texts=tuple(_text(row) for row in rows),
        labels=tuple(row["label"] for row in rows),
        sha256=hashlib.sha256(content).hexdigest(),
        path=f"{name}.jsonl",
    )


def _text(row: dict[str, str]) -> Text:
    if "text" in row:
        return row["text"]
    return Turn("user", row["prompt"]), Turn("assistant", row["response"])
