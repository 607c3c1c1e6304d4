"""What each worker of a run has done, in tokens a second."""

from __future__ import annotations

from dataclasses import dataclass, field

from pillion.cluster.worker import FinishedUnit


@dataclass
class Tally:
    """Counts finished units by worker.

    Attributes:
        tokens: worker -> tokens of its units.
        seconds: worker -> how long it was busy with them.
    """

    tokens: dict[str, int] = field(default_factory=dict[str, int])
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, done: FinishedUnit) -> None:
        """A unit is finished."""
        self.tokens[done.worker] = self.tokens.get(done.worker, 0) + done.tokens
        self.seconds[done.worker] = self.seconds.get(done.worker, 0.0) + done.seconds

    def rates(self) -> list[dict[str, str | int | float]]:
        """`worker`, `tokens` and `tokens_per_second` of every worker, in the order of their names.

        A worker that was lost is there with what it had finished.
        """
        return [
            {
                "worker": worker,
                "tokens": self.tokens[worker],
                "tokens_per_second": round(
                    self.tokens[worker] / max(self.seconds[worker], 1e-9), 1
                ),
            }
            for worker in sorted(self.tokens)
        ]
