"""Rows that are scored together, and their lines on disk until all of them are there.

Promises that equal rows, models and probes give shards of equal names, on any machine, and that a
shard under its final name is whole.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from pillion.cache import replacing
from pillion.core import as_tokens
from pillion.data import BLOCK_ROWS
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
        sizes: how many of them each time are scored together, in this order.
    """

    name: str
    row_ids: tuple[int, ...]
    sizes: tuple[int, ...]


def blocks(counts: Sequence[int]) -> Iterator[range]:
    """Rows that are batched together: so many consecutive ones of a file, in any process.

    Args:
        counts: rows of every file.
    """
    start = 0
    for count in counts:
        for first in range(start, start + count, BLOCK_ROWS):
            yield range(first, min(first + BLOCK_ROWS, start + count))
        start += count


def cut(
    token_ids: Sequence[Sequence[int]], key: str, counts: Sequence[int] | None = None
) -> list[ScoreShard]:
    """All rows that have tokens, in shards of whole batches.

    Args:
        token_ids: of every row.
        key: identity of everything else that the lines depend on.
        counts: rows of every file; None for those of one.
    """
    shards: list[ScoreShard] = []
    parts: list[list[int]] = []
    num_tokens = 0
    for block in blocks([len(token_ids)] if counts is None else counts):
        filled = [row for row in block if len(token_ids[row])]
        parts.append([])
        for batch in score_batches([len(token_ids[row]) for row in filled]):
            parts[-1] += [filled[place] for place in batch]
            num_tokens += sum(len(token_ids[filled[place]]) for place in batch)
            if num_tokens >= SHARD_TOKENS:
                shards.append(_shard(len(shards), parts, token_ids, key))
                parts, num_tokens = [[]], 0
    return [*shards, _shard(len(shards), parts, token_ids, key)] if num_tokens else shards


def _shard(
    number: int, parts: list[list[int]], token_ids: Sequence[Sequence[int]], key: str
) -> ScoreShard:
    digest = hashlib.sha256(key.encode())
    # Batches are cut from the rows in the order of their places.
    ordered = tuple(row for part in parts for row in sorted(part))
    sizes = tuple(len(part) for part in parts if part)
    for row in ordered:
        ids = array("q", token_ids[row])
        digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        for segment in as_tokens(token_ids[row]).segments:
            digest.update(repr(astuple(segment)).encode())
    return ScoreShard(f"shard-{number:05d}-{digest.hexdigest()[:10]}.jsonl", ordered, sizes)


class LineStore:
    """The lines of finished shards in a folder, or nowhere.

    Args:
        folder: made when the first shard is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, shard: ScoreShard) -> list[str] | None:
        """One line a row of the shard; None if it is missing."""
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
        keep(self.folder / shard.name, "".join(f"{line}\n" for line in lines).encode())


def keep(path: Path, content: bytes) -> None:
    """Writes a file of verdicts, whole or not at all, in a folder that is made if need be.

    Raises:
        StorageError: the disk is full, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content)
    except (OSError, StorageError) as error:
        why = getattr(error.__cause__ or error, "strerror", None) or str(error)
        raise StorageError(
            f"Results cannot be kept in {path.parent} ({why}); what is there is kept: make "
            "room, and run the same command again."
        ) from error
