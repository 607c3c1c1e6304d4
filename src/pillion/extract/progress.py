"""How a long run tells its caller where it stands; nothing here draws or prints."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called now and then, from the thread that runs."""

    def __call__(
        self, stage: str, done_tokens: int, total_tokens: int, metric: float | None = None
    ) -> None:
        """Some of the work is done.

        Args:
            stage: what is being done, such as `extract` or `train`.
            done_tokens: so far in this stage; what an earlier run did counts as done.
            total_tokens: in this stage; a stage that stops early ends below it.
            metric: the newest validation score, where the stage has one.
        """
        ...


def silent(stage: str, done_tokens: int, total_tokens: int, metric: float | None = None) -> None:
    """For callers without progress; see `Progress`."""
