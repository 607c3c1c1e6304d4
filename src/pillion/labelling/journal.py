"""What a judge has said so far, on disk, so that no answer is asked for twice.

Promises that a crash loses at most the answer that was being written. Holds digests of texts, no
text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pillion.core import Text
from pillion.data.examples import plain_turns
from pillion.errors import StorageError
from pillion.labelling.base import digest


class Journal:
    """The answers of one judge.

    Args:
        folder: for the file; None keeps nothing beyond this process.
        key: of the judge: answers of others are in files of their own.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self.path = folder and folder / f"{key[:32]}.jsonl"
        self._found: dict[str, dict[str, float]] = {}
        if self.path is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            name, probs = json.loads(line)
        except ValueError:
            return  # the end of a line that a crash cut off
        self._found[name] = probs

    def get(self, text: Text) -> Mapping[str, float] | None:
        """What was said of a text; None if nothing was."""
        return self._found.get(_name(text))

    def put(self, text: Text, probs: Mapping[str, float]) -> None:
        """Keeps what was said of a text.

        Raises:
            StorageError: it cannot be written.
        """
        self._found[_name(text)] = dict(probs)
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                # A newline first: what a crash cut off stays a line by itself.
                file.write("\n" + json.dumps([_name(text), dict(probs)]))
        except OSError as error:
            raise StorageError(f"{self.path} could not be written ({error}).") from error


def _name(text: Text) -> str:
    return digest(plain_turns(text))
