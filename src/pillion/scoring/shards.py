"""Rows that are scored together, and their lines on disk until all of them are there.

Promises that equal rows, models and probes give shards of equal names, on any machine, and that a
shard under its final name is whole.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from pillion.cache import replacing
from pillion.core import as_tokens
from pillion.errors import StorageError
from pillion.runtime import score_batches

SHARD_TOKENS = 32_768
"""Tokens of a shard at least: half a minute of one core, a second of a GPU."""


@dataclass(frozen=True)
class ScoreShard:
    """Whole batches of rows.

    Attributes:
        name: carries the identity of rows, model and probes.
        row_ids: ascending places among all rows.
    """

    name: str
    row_ids: tuple[int, ...]


def cut(token_ids: Sequence[Sequence[int]], key: str) -> list[ScoreShard]:
    """All rows that have tokens, in shards of whole batches.

    Args:
        token_ids: of every row.
        key: identity of everything else that the lines depend on.
    """
    filled = [row for row, ids in enumerate(token_ids) if len(ids)]
    shards: list[ScoreShard] = []
    row_ids: list[int] = []
    num_tokens = 0
    for batch in score_batches([len(token_ids[row]) for row in filled]):
        row_ids += [filled[place] for place in batch]
        num_tokens += sum(len(token_ids[filled[place]]) for place in batch)
        if num_tokens >= SHARD_TOKENS:
            shards.append(_shard(len(shards), row_ids, token_ids, key))
            row_ids, num_tokens = [], 0
    return [*shards, _shard(len(shards), row_ids, token_ids, key)] if row_ids else shards


def _shard(
    number: int, row_ids: list[int], token_ids: Sequence[Sequence[int]], key: str
) -> ScoreShard:
    digest = hashlib.sha256(key.encode())
    # Batches are cut from the rows in the order of their places.
    ordered = tuple(sorted(row_ids))
    for row in ordered:
        ids = array("q", token_ids[row])
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        for segment in as_tokens(token_ids[row]).segments:
            digest.update(repr(astuple(segment)).encode())
    return ScoreShard(f"shard-{number:05d}-{digest.hexdigest()[:10]}.jsonl", ordered)


class LineStore:
    """The lines of finished shards in a folder, or nowhere.

    Args:
        folder: made when the first shard is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, shard: ScoreShard) -> list[str] | None:
        """One line a row of the shard; None if it is not there."""
        path = None if self.folder is None else self.folder / shard.name
        if path is None or not path.exists():
            return None
        lines = path.read_text("utf-8").split("\n")[:-1]
        return lines if len(lines) == len(shard.row_ids) else None

    def put(self, shard: ScoreShard, lines: Sequence[str]) -> None:
        """Keeps the lines of a shard.

        Raises:
            StorageError: the disk is full, or cannot be written; the shard stays missing.
        """
        if self.folder is None:
            return
        content = "".join(f"{line}\n" for line in lines).encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / shard.name) as file:
                file.write(content)
        except (OSError, StorageError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or str(error)
            raise StorageError(
                f"Verdicts cannot be kept in {self.folder} ({why}); what is there is kept: make "
                "room, and run the same command again."
            ) from error
