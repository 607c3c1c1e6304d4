"""How long runs tell where they stand: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic

from rich.progress import (
    BarColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pillion.cli.app import QUIET, err

LINE_SECONDS = 30.0
"""Between two lines where there is no terminal; what takes less says nothing."""


class Bar:
    """Progress of every stage, with tokens a second and time left.

    Args:
        bars: drawn on a terminal.
        lines: whether to print lines in their place.
        unit: what is counted.
    """

    def __init__(self, bars: Progress, *, lines: bool = False, unit: str = "tokens") -> None:
        self.bars, self.lines, self.unit = bars, lines, unit
        self.stages: dict[str, TaskID] = {}
        self._said = monotonic()

    def __call__(
        self, stage: str, done_tokens: int, total_tokens: int, metric: float | None = None
    ) -> None:
        """Moves the bar of a stage; see `pillion.extract.progress.Progress`."""
        if stage not in self.stages:
            self.stages[stage] = self.bars.add_task(stage, total=total_tokens, rate="", metric="")
        task = self.stages[stage]
        self.bars.update(task, completed=done_tokens, total=total_tokens)
        speed = self.bars.tasks[task].speed
        self.bars.update(task, rate=f"{speed:,.0f} {self.unit}/s" if speed else "")
        if metric is not None:
            self.bars.update(task, metric=f"validation {metric:.3f}")
        if self.lines and monotonic() >= self._said + LINE_SECONDS:
            self._said = monotonic()
            err.print(_line(self.bars.tasks[task]))


@contextmanager
def progress_bar(unit: str = "tokens") -> Generator[Bar]:
    """On standard error; a bar is gone when the work is done."""
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[metric]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    loud = not QUIET.get()
    with Progress(*columns, console=err, disable=not (loud and err.is_terminal)) as bars:
        yield Bar(bars, lines=loud and not err.is_terminal, unit=unit)


def _line(task: Task) -> str:
    """Such as `extract 43 %, 700 tokens/s, 2 min left`."""
    left = task.time_remaining
    parts = [
        f"{task.description} {task.percentage:.0f} %",
        task.fields["rate"],
        task.fields["metric"],
        "" if left is None else f"{_span(float(left))} left",
    ]
    return ", ".join(part for part in parts if part)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
