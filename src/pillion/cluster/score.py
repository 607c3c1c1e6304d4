"""Scores texts on a cluster: workers give lines back, the driver alone writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pillion.cluster.pool import Crew
from pillion.cluster.tally import Tally
from pillion.core import as_tokens
from pillion.scoring import Scored, ScoreJob, Scorer, Unit


def score_on(crew: Crew, tally: Tally) -> Scorer:
    """A scorer whose shards are scored by the workers of a cluster.

    Args:
        crew: who works.
        tally: told of every shard, and who scored it.
    """

    def run(job: ScoreJob, units: list[Unit], tell: Callable[[int], object]) -> Iterator[Scored]:
        done_tokens = 0
        packed = [(shard, [as_tokens(row) for row in rows]) for shard, rows in units]
        for done in crew.run(job, packed):
            tally.add(done)
            done_tokens += done.tokens
            tell(done_tokens)
            yield done.value

    return run
