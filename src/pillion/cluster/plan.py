"""What is in the files of a source, found out by the workers of a cluster.

Files that say so themselves (Parquet) are asked by the driver. Does not know models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pillion.backends import Backend
from pillion.cluster.pool import WorkerPool
from pillion.data import Scan, Scanned, SlicePlan, TableLayout, plan_slices
from pillion.scoring import keep


def plan_on(
    pool: WorkerPool, source: str, text_column: str | None, layout: TableLayout | None, work: Path
) -> SlicePlan:
    """The slices of a source; see `data.plan_slices`.

    Args:
        pool: its workers read through files of lines.
        source: as in `plan_slices`.
        text_column: column of the texts; None to find it.
        layout: other columns, and how the table is written.
        work: folder that keeps what was found, so that no file is gone through twice.

    Raises:
        DataError: a file that cannot be used.
        ConfigError: a package that is missing.
        StorageError: the folder cannot be written.
    """

    def scan_all(scans: list[Scan]) -> Iterator[Scanned]:
        places = [work / f"scan-{_name(scan)}.json" for scan in scans]
        missing = [n for n, place in enumerate(places) if not place.exists()]
        for done in pool.run(_scan, [(n, scans[n]) for n in missing]):
            place, found = done.value
            keep(places[place], json.dumps(asdict(found)).encode())
        return (Scanned.from_json(json.loads(place.read_bytes())) for place in places)

    return plan_slices(source, text_column, layout, scan_all)


def _scan(backend: Backend, unit: tuple[int, Scan]) -> tuple[tuple[int, Scanned], int]:
    place, scan = unit
    return (place, scan.run()), 0


def _name(scan: Scan) -> str:
    facts: list[Any] = [scan.file.facts()[1], repr(scan.layout), repr(scan.columns)]
    facts += [scan.slice_bytes, scan.may_be_empty, scan.text_column]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
