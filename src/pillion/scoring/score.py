"""The lines of many rows: those of earlier runs from the disk, the missing ones from a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from pillion.backends import Backend
from pillion.core import ModelIdentity
from pillion.core.lines import as_line, json_line
from pillion.errors import Interrupted
from pillion.extract import Progress, silent
from pillion.probe import Artefact
from pillion.runtime import LanguageModel
from pillion.scoring.shards import LineStore, ScoreShard, cut

Rows = Sequence[Sequence[int]]
"""Token ids of every row."""

Unit = tuple[ScoreShard, Rows]
"""A shard, and the token ids of its rows."""

Scored = tuple[ScoreShard, list[str]]
"""A shard, and one line a row of it."""


@dataclass(frozen=True, eq=False)
class ScoreJob:
    """From the rows of a shard to their lines; the same function here and on a cluster.

    Attributes:
        artefacts: the probes, read in one pass.
        allow_mismatch: only warn of probes trained on other weights or another template.
    """

    artefacts: tuple[Artefact, ...]
    allow_mismatch: bool = False

    def __call__(
        self, backend: Backend, unit: Unit, progress: Callable[[int, int], None] | None = None
    ) -> tuple[Scored, int]:
        """The shard with one line a row, and its tokens.

        Args:
            backend: the model.
            unit: the shard, and the token ids of its rows.
            progress: called with the tokens done so far, and all of the shard's.

        Raises:
            MismatchError: a probe belongs to another model.
            StateError: a hidden state is not finite.
        """
        shard, rows = unit
        multilabel = {a.name for a in self.artefacts if a.card.task == "multilabel"}
        verdicts = LanguageModel(backend).score_rows(
            rows, self.artefacts, progress, self.allow_mismatch
        )
        lines = [json_line(as_line(row, multilabel)) for row in verdicts]
        return (shard, lines), sum(map(len, rows))

    def key(self, identity: ModelIdentity) -> str:
        """What the lines of some token ids depend on; not the name of the model."""
        model = {name: value for name, value in asdict(identity).items() if name != "name"}
        probes = [(a.name, a.card.model_dump_json()) for a in self.artefacts]
        return hashlib.sha256(json.dumps([model, probes], sort_keys=True).encode()).hexdigest()


Scorer = Callable[[ScoreJob, list[Unit], Callable[[int], object]], Iterator[Scored]]
"""Scores shards, here or elsewhere; gives each when it is done, and tells how many tokens are."""


def score_here(backend: Backend) -> Scorer:
    """A scorer that runs a model in this process."""

    def run(job: ScoreJob, units: list[Unit], tell: Callable[[int], object]) -> Iterator[Scored]:
        before = 0

        def tell_all(done_tokens: int, _: int) -> None:
            tell(before + done_tokens)

        for unit in units:
            scored, num_tokens = job(backend, unit, tell_all)
            before += num_tokens
            yield scored

    return run


def score(
    scorer: Scorer,
    job: ScoreJob,
    identity: ModelIdentity,
    token_ids: Rows,
    store: LineStore,
    progress: Progress = silent,
) -> list[str | None]:
    """One line of JSON a row, None for a row without tokens; kept shards are not scored again.

    Args:
        scorer: who runs the missing shards.
        job: what is done with them.
        identity: of the model.
        token_ids: of every row.
        store: of finished shards.
        progress: told how many tokens are done.

    Raises:
        StorageError: the disk is full; what is done is kept.
        Interrupted: by Ctrl-C; what is done is kept.
        PillionError: as the scorer raised it.
    """
    lines: list[str | None] = [None] * len(token_ids)
    total = sum(map(len, token_ids))
    missing: list[Unit] = []
    for shard in cut(token_ids, job.key(identity)):
        kept = store.get(shard)
        if kept is None:
            missing.append((shard, [token_ids[row] for row in shard.row_ids]))
        else:
            _place(lines, shard, kept)
    kept_tokens = total - sum(sum(map(len, rows)) for _, rows in missing)
    tell = partial(_tell, progress, kept_tokens, total)
    try:
        for shard, found in scorer(job, missing, tell):
            store.put(shard, found)
            _place(lines, shard, found)
    except KeyboardInterrupt as error:
        kept = "run the same command again to finish" if store.folder else "nothing is kept"
        raise Interrupted(f"Scoring was interrupted; {kept}.") from error
    return lines


def _place(lines: list[str | None], shard: ScoreShard, found: Sequence[str]) -> None:
    for row, line in zip(shard.row_ids, found, strict=True):
        lines[row] = line


def _tell(progress: Progress, kept_tokens: int, total: int, done_tokens: int) -> None:
    progress("predict", kept_tokens + done_tokens, total)
