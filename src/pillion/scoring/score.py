"""The lines of many rows: those of earlier runs from the disk, the missing ones from a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from pillion.backends import Backend
from pillion.core import ModelIdentity, Verdict
from pillion.core.lines import as_line, json_line
from pillion.errors import Interrupted
from pillion.extract import Maker, Progress, silent
from pillion.probe import Artefact
from pillion.runtime import LanguageModel
from pillion.scoring.shards import LineStore, ScoreShard, cut

Rows = Sequence[Sequence[int]]
"""Token ids of every row."""


@dataclass(frozen=True, eq=False)
class ScoreJob:
    """What becomes of rows; the same here and on a cluster.

    Attributes:
        artefacts: the probes, read in one pass.
        allow_mismatch: only warn of probes trained on other weights or another template.
    """

    artefacts: tuple[Artefact, ...]
    allow_mismatch: bool = False

    def lines(self, verdicts: Sequence[Mapping[str, Verdict]]) -> list[str]:
        """One line a row.

        Args:
            verdicts: of every row, by the names of the probes.
        """
        multilabel = {a.name for a in self.artefacts if a.card.task == "multilabel"}
        return [json_line(as_line(row, multilabel)) for row in verdicts]

    def key(self, identity: ModelIdentity) -> str:
        """What the lines of some token ids depend on; not the name of the model."""
        model = {name: value for name, value in asdict(identity).items() if name != "name"}
        probes = [(a.name, a.card.model_dump_json()) for a in self.artefacts]
        return hashlib.sha256(json.dumps([model, probes], sort_keys=True).encode()).hexdigest()


def score(
    backend: Backend,
    job: ScoreJob,
    token_ids: Rows,
    store: LineStore,
    progress: Progress = silent,
    counts: Sequence[int] | None = None,
) -> list[str | None]:
    """One line of JSON a row, None for a row without tokens; kept shards are not scored again.

    Args:
        backend: the model.
        job: what is done with the rows.
        token_ids: of every row.
        store: of finished shards.
        progress: told how many tokens are done.
        counts: rows of every file; None for those of one.

    Raises:
        StorageError: the disk is full; what is done is kept.
        MismatchError: another machine has begun, whose states are not those of this one; or a probe
            belongs to another model.
        StateError: a hidden state is not finite.
        Interrupted: by Ctrl-C; what is done is kept.
    """
    lines: list[str | None] = [None] * len(token_ids)
    total = sum(map(len, token_ids))
    missing: list[ScoreShard] = []
    for shard in cut(token_ids, job.key(backend.identity), counts):
        kept = store.get(shard)
        if kept is None:
            missing.append(shard)
        else:
            _place(lines, shard, kept)
    missing_tokens = sum(len(token_ids[row]) for shard in missing for row in shard.row_ids)
    done = total - missing_tokens
    model = LanguageModel(backend)
    try:
        if missing and store.folder is not None:
            Maker.of(backend).meet(store.folder)
        for shard in missing:
            found: list[str] = []
            for rows in _parts(shard):
                some, tell = [token_ids[row] for row in rows], partial(_tell, progress, done, total)
                verdicts = model.score_rows(some, job.artefacts, tell, job.allow_mismatch)
                found += job.lines(verdicts)
                done += sum(map(len, some))
            store.put(shard, found)
            _place(lines, shard, found)
    except KeyboardInterrupt as error:
        kept = "run the same command again to finish" if store.folder else "nothing is kept"
        raise Interrupted(f"Scoring was interrupted; {kept}.") from error
    return lines


def _parts(shard: ScoreShard) -> Iterator[tuple[int, ...]]:
    """The rows of a shard that are batched together."""
    start = 0
    for size in shard.sizes:
        yield shard.row_ids[start : start + size]
        start += size


def _place(lines: list[str | None], shard: ScoreShard, found: Sequence[str]) -> None:
    for row, line in zip(shard.row_ids, found, strict=True):
        lines[row] = line


def _tell(progress: Progress, before: int, total: int, done_tokens: int, _: int) -> None:
    progress("predict", before + done_tokens, total)
