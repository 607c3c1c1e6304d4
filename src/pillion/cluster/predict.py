"""Scores the slices of a source on a cluster: workers read, tokenise and score them.

Promises the lines of `scoring.score`, in the order of the rows, with a driver that holds no text:
finished slices lie in a folder, and a slice that lies there is not read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion.backends import Backend
from pillion.cluster.pool import WorkerPool
from pillion.cluster.tally import Tally
from pillion.core import FailedRow, OnTooLong, Scope, Template
from pillion.core.lines import failed_line, json_line
from pillion.data import Slice, SlicePlan
from pillion.errors import Interrupted
from pillion.extract import Progress, silent
from pillion.runtime import LanguageModel, sift_rows
from pillion.scoring import ScoreJob, blocks, keep


@dataclass(frozen=True)
class Lines:
    """The lines of a source's rows, slice by slice on disk.

    Attributes:
        places: files of all slices, in order; each begins with a line of what failed in it.
        num_rows: of each slice.
    """

    places: Sequence[Path]
    num_rows: Sequence[int]

    def __iter__(self) -> Iterator[str]:
        for place in self.places:
            with open(place, encoding="utf-8", newline="\n") as file:
                next(file)
                for line in file:
                    yield line.removesuffix("\n")

    def failed(self) -> Iterator[FailedRow]:
        """The rows that could not be used, in order."""
        start = 0
        for place, num_rows in zip(self.places, self.num_rows, strict=True):
            with open(place, encoding="utf-8", newline="\n") as file:
                failed: list[tuple[int, str]] = json.loads(next(file))["failed"]
            for row, reason in failed:
                yield FailedRow(start + row, reason)
            start += num_rows


@dataclass(frozen=True, eq=False)
class ReadAndScore:
    """What a worker does with a slice.

    Attributes:
        job: what becomes of its rows.
        template: how a text is wrapped.
        on_too_long: whether a longer text fails or is cut.
        scopes: of which a row must hold words.
    """

    job: ScoreJob
    template: Template
    on_too_long: OnTooLong
    scopes: tuple[Scope, ...]

    def __call__(self, backend: Backend, unit: tuple[int, Slice]) -> tuple[tuple[int, bytes], int]:
        """The number of the slice with its file, and its tokens."""
        number, piece = unit
        texts, failed = piece.read()
        rows, unfit = sift_rows(backend, texts, self.template, self.on_too_long, self.scopes)
        reasons = {one.row: one.reason for one in (*failed, *unfit)}
        lines, model, job = [""] * len(rows), LanguageModel(backend), self.job
        for row, reason in reasons.items():
            lines[row - 1] = json_line(failed_line(reason))
        for block in blocks([len(rows)]):
            filled = [row for row in block if len(rows[row])]
            if not filled:
                continue
            some = [rows[row] for row in filled]
            verdicts = model.score_rows(some, job.artefacts, allow_mismatch=job.allow_mismatch)
            for row, line in zip(filled, job.lines(verdicts), strict=True):
                lines[row] = line
        tokens = sum(map(len, rows))
        head = json.dumps({"tokens": tokens, "failed": sorted(reasons.items())})
        return (number, "".join(f"{line}\n" for line in (head, *lines)).encode()), tokens

    def name(self, key: str, piece: Slice) -> str:
        """Of the file of a slice: whatever its lines depend on.

        Args:
            key: of `ScoreJob.key`.
            piece: the slice.
        """
        facts: list[Any] = [key, self.template, self.on_too_long, self.scopes, piece.name]
        return f"slice-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.jsonl"


def predict_on(
    pool: WorkerPool,
    plan: SlicePlan,
    work: ReadAndScore,
    folder: Path,
    tally: Tally,
    progress: Progress = silent,
) -> Lines:
    """The lines of all rows; slices that an earlier run has finished are not read again.

    Args:
        pool: of workers.
        plan: the slices.
        work: what is done with each.
        folder: of finished slices.
        tally: told of every slice and its worker.
        progress: told how many tokens are done, and how many all slices may have.

    Raises:
        StorageError: the disk is full; what is done is kept.
        DataError: a slice cannot be read.
        MismatchError: a probe or a worker has another model, or one that began before rounds
            otherwise.
        StateError: a hidden state is not finite.
        RunError: workers were lost over and over again.
        Interrupted: by Ctrl-C; what is done is kept.
    """
    maker = pool.maker
    for artefact in work.job.artefacts:  # what a worker warns of stays there
        artefact.check(maker.identity, work.job.allow_mismatch)
    maker.meet(folder)
    key = work.job.key(maker.identity)
    places = [folder / work.name(key, piece) for piece in plan.slices]
    missing = [number for number, place in enumerate(places) if not place.exists()]
    all_rows = sum(plan.slices[number].num_rows for number in missing)
    done_rows = done_tokens = 0
    try:
        for done in pool.run(work, [(number, plan.slices[number]) for number in missing]):
            number, content = done.value
            keep(places[number], content)
            tally.add(done)
            done_tokens += done.tokens
            done_rows += plan.slices[number].num_rows
            progress("predict", done_tokens, done_tokens * all_rows // done_rows)
    except KeyboardInterrupt as error:
        raise Interrupted(
            "Scoring was interrupted; run the same command again to finish."
        ) from error
    return Lines(places, [piece.num_rows for piece in plan.slices])
