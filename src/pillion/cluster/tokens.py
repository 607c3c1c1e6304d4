"""Tokenises the slices of a source on a cluster, onto a disk that all nodes share.

Promises the tokens of `extract.encode`. The driver holds a number a row; a slice whose tokens lie
there is not read again.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, cast, overload

import numpy as np

from pillion.backends import Backend
from pillion.cache import SHARD_BYTES, CacheSpec, SegmentFacts, replacing
from pillion.cluster.pool import WorkerPool
from pillion.core import (
    FailedRow,
    Kind,
    ModelIdentity,
    OnTooLong,
    Role,
    Scope,
    Segment,
    Template,
    Tokens,
    last_role,
)
from pillion.data import Slice, SlicePlan
from pillion.errors import StorageError
from pillion.extract import Progress, cache_spec, key_of_model, segment_bytes, silent
from pillion.runtime import sift_rows

Facts = tuple[SegmentFacts, ...]
"""The turns of a row's tokens."""


class SegmentTable(Sequence[Facts]):
    """The segments of many rows: few kinds, and a number a row.

    Args:
        kinds: different ones.
        places: of each row, among them.
    """

    def __init__(self, kinds: Sequence[Facts] = (), places: Sequence[int] = ()) -> None:
        self._known = {kind: place for place, kind in enumerate(kinds)}
        self.kinds = list(kinds)
        self.places: array[int] = array("i", places)

    def add(self, kind: Facts) -> None:
        """Adds the segments of one more row."""
        if kind not in self._known:
            self._known[kind] = len(self.kinds)
            self.kinds.append(kind)
        self.places.append(self._known[kind])

    def extend(self, other: SegmentTable) -> None:
        """The rows of another."""
        own = len(self.places)
        for kind in other.kinds:
            if kind not in self._known:
                self._known[kind] = len(self.kinds)
                self.kinds.append(kind)
        table = np.array([self._known[kind] for kind in other.kinds] or [0], dtype=np.int32)
        self.places.frombytes(table[np.array(other.places, dtype=np.int32)].tobytes())
        assert len(self.places) == own + len(other.places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Facts: ...
    @overload
    def __getitem__(self, index: slice) -> list[Facts]: ...
    def __getitem__(self, index: int | slice) -> Facts | list[Facts]:
        if isinstance(index, slice):
            return [self.kinds[place] for place in self.places[index]]
        return self.kinds[self.places[index]]


@dataclass(frozen=True)
class TokenFile:
    """The tokens of a slice, as they lie on disk.

    Attributes:
        failed: rows that could not be used (from 1 in the slice), and why.
        ends: role of the last turn of its rows.
        lengths: tokens of each row, int32.
        segments: their turns.
        kept: tokens of the scope of each row, int32.
        kept_segments: the turns of these.
        ids: of all rows, one after the other, int32.
    """

    failed: list[tuple[int, str]]
    ends: list[Role]
    lengths: np.ndarray
    segments: SegmentTable
    kept: np.ndarray
    kept_segments: SegmentTable
    ids: np.ndarray

    def write(self, path: Path) -> None:
        """A line of JSON, then numbers of four bytes.

        Raises:
            StorageError: the disk is full, or cannot be written.
        """
        head = {
            "failed": self.failed,
            "ends": self.ends,
            "rows": len(self.lengths),
            "segments": self.segments.kinds,
            "kept_segments": self.kept_segments.kinds,
        }
        with replacing(path) as file:
            file.write(f"{json.dumps(head)}\n".encode())
            for numbers in (self.lengths, self.segments.places, self.kept):
                file.write(np.asarray(numbers, dtype="<i4").tobytes())
            file.write(np.asarray(self.kept_segments.places, dtype="<i4").tobytes())
            file.write(self.ids.astype("<i4").tobytes())

    @classmethod
    def read(cls, path: Path) -> TokenFile:
        """What `write` has written.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        try:
            with open(path, "rb") as file:
                head = json.loads(file.readline())
                numbers = np.frombuffer(file.read(), dtype="<i4")
        except (OSError, ValueError) as error:
            raise StorageError(
                f"Tokens of this run are not in {path.parent} ({error}); give a folder on a file "
                "system that all nodes share."
            ) from error
        rows = head["rows"]
        lengths, segments, kept, kept_segments = numbers[: 4 * rows].reshape(4, rows)
        return cls(
            [(row, reason) for row, reason in head["failed"]],
            head["ends"],
            lengths,
            SegmentTable(_kinds(head["segments"]), segments.tolist()),
            kept,
            SegmentTable(_kinds(head["kept_segments"]), kept_segments.tolist()),
            numbers[4 * rows :],
        )

    def rows(self, first: int, num_rows: int) -> list[Tokens]:
        """Some of its rows."""
        stops = np.cumsum(self.lengths)
        found: list[Tokens] = []
        for row in range(first, first + num_rows):
            ids = self.ids[stops[row] - self.lengths[row] : stops[row]].tolist()
            found.append(Tokens(ids, _segments(self.segments[row])))
        return found

    def feed(self, digest: Any) -> None:
        """Shows its rows to the hash of a key; see `extract.key_of_model`."""
        known = [segment_bytes(_segments(kind)) for kind in self.segments.kinds]
        content = memoryview(self.ids.astype("<i8").tobytes())
        sizes = self.lengths.astype("<i8")
        heads = memoryview(sizes.tobytes())
        parts: list[Any] = []
        start = 0
        for row, (size, place) in enumerate(zip(sizes.tolist(), self.segments.places, strict=True)):
            parts += (heads[8 * row : 8 * row + 8], content[start : start + 8 * size], known[place])
            start += 8 * size
        digest.update(b"".join(parts))


def _segments(kind: Facts) -> list[Segment]:
    return [Segment(b, e, cast("Role", r), t, cast("Kind", k)) for b, e, r, t, k in kind]


def _kinds(content: Any) -> list[Facts]:
    return [tuple(tuple(facts) for facts in kind) for kind in content]


@dataclass(eq=False)
class Tokenised:
    """The rows of a source, their tokens on disk.

    Attributes:
        identity: of the model.
        key: of the cache; see `extract.cache_key`.
        places: files of the slices, in order.
        starts: first row of each, and the number of all rows.
        lengths: tokens of the scope of each row.
        segments: their turns.
        failed: rows that could not be used, in order.
        ends: role of the last turn of the rows.
    """

    identity: ModelIdentity
    key: str
    places: list[Path]
    starts: array[int] = field(default_factory=lambda: array("q", [0]))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    segments: SegmentTable = field(default_factory=SegmentTable)
    failed: list[FailedRow] = field(default_factory=list[FailedRow])
    ends: set[Role] = field(default_factory=set[Role])

    def spec(self, layers: Sequence[int], scope: Scope) -> CacheSpec:
        """The cache of these rows, as `extract.cache_spec` gives it."""
        one, segments = self.identity, self.segments if any(self.segments.kinds) else ()
        return CacheSpec(
            *(self.key, tuple(layers), one.dim, one.dtype, self.lengths),
            shard_bytes=SHARD_BYTES,
            scope=scope,
            segments=segments,
        )

    def sources(self, rows: range) -> list[tuple[Path, int, int]]:
        """Where consecutive rows are: files, the first row in each, and how many."""
        found: list[tuple[Path, int, int]] = []
        place = bisect_right(self.starts, rows.start) - 1
        row = rows.start
        while row < rows.stop:
            stop = min(rows.stop, self.starts[place + 1])
            if stop > row:
                found.append((self.places[place], row - self.starts[place], stop - row))
            row, place = stop, place + 1
        return found


@dataclass(frozen=True)
class Tokenise:
    """What a worker does with a slice.

    Attributes:
        folder: of the files.
        template: how a text is wrapped.
        on_too_long: whether a longer text fails or is cut.
        scope: which turns are kept; a row without them fails.
    """

    folder: Path
    template: Template
    on_too_long: OnTooLong
    scope: Scope

    def __call__(self, backend: Backend, unit: tuple[Path, Slice]) -> tuple[int, int]:
        """How many rows it had, and how many tokens."""
        place, piece = unit
        if not self.folder.is_dir():
            raise StorageError(
                f"This node does not see {self.folder}; give a folder on a file system that all "
                "nodes share."
            )
        texts, failed = piece.read()
        rows, unfit = sift_rows(backend, texts, self.template, self.on_too_long, [self.scope])
        reasons = {one.row: one.reason for one in (*failed, *unfit)}
        spec = cache_spec(backend.identity, (0,), "", rows, self.scope)
        segments, kept = SegmentTable(), SegmentTable()
        for row, tokens in enumerate(rows):
            segments.add(tuple(astuple(segment) for segment in tokens.segments))
            kept.add(spec.segments[row] if spec.segments else ())
        ids = np.fromiter((one for tokens in rows for one in tokens), dtype=np.int32)
        TokenFile(
            sorted(reasons.items()),
            sorted({last_role(text) for text in texts if text}),
            np.array([len(tokens) for tokens in rows], dtype=np.int32),
            segments,
            np.array(spec.lengths, dtype=np.int32),
            kept,
            ids,
        ).write(place)
        return len(rows), len(ids)

    def place(self, identity: ModelIdentity, piece: Slice) -> Path:
        """The file of a slice, named by whatever its tokens depend on."""
        facts = [*_facts(identity), self.template, self.on_too_long, self.scope, piece.name]
        return self.folder / f"tokens-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"


def _facts(identity: ModelIdentity) -> list[Any]:
    return [value for name, value in sorted(vars(identity).items()) if name != "name"]


def tokenise_on(
    pool: WorkerPool, plan: SlicePlan, work: Tokenise, progress: Progress = silent
) -> Tokenised:
    """Token ids of every row that fits the model, on disk.

    Args:
        pool: of workers.
        plan: the slices.
        work: what is done with each.
        progress: told how many tokens are done, and how many all slices may have.

    Raises:
        StorageError: the disk is full, or a node does not see the folder.
        DataError: a slice cannot be read.
        MismatchError: workers have different models under the same name.
    """
    identity = pool.maker.identity
    work.folder.mkdir(parents=True, exist_ok=True)
    places = [work.place(identity, piece) for piece in plan.slices]
    units = [
        (place, piece)
        for place, piece in zip(places, plan.slices, strict=True)
        if not place.exists()
    ]
    all_rows, done_rows, done_tokens = sum(piece.num_rows for _, piece in units), 0, 0
    for done in pool.run(work, units):
        done_rows, done_tokens = done_rows + done.value, done_tokens + done.tokens
        progress("encode", done_tokens, done_tokens * all_rows // max(1, done_rows))
    return _collected(identity, work, places)


def _collected(identity: ModelIdentity, work: Tokenise, places: list[Path]) -> Tokenised:
    found = Tokenised(identity, "", places)
    digest = key_of_model(identity, work.template, work.on_too_long)
    for place in places:
        start, one = found.starts[-1], TokenFile.read(place)
        found.starts.append(start + len(one.lengths))
        found.lengths.frombytes(one.kept.tobytes())
        found.segments.extend(one.kept_segments)
        found.failed += [FailedRow(start + row, reason) for row, reason in one.failed]
        found.ends |= set(one.ends)
        one.feed(digest)
    found.key = digest.hexdigest()
    return found
