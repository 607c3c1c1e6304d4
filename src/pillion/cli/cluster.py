"""`--ray`: the options that verbs share, and the workers that they ask for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import err
from pillion.cli.options import EngineOptions
from pillion.cli.rows import TextOptions
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.cluster import WorkerPool
    from pillion.data import SlicePlan


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The cluster that a verb may spread its work over."""

    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread the work over a running Ray cluster: auto for the one that this machine "
            "is part of, or HOST:PORT of its head node. Needs pillion[ray].",
        ),
    ] = None
    ray_workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Workers on the cluster, each with its own copy of the model; default: one a GPU, "
            "or one a CPU core where there are none.",
        ),
    ] = None


@contextmanager
def open_pool(cluster: ClusterOptions, engine: EngineOptions) -> Generator[WorkerPool | None]:
    """The workers of a cluster, or None where no address is given.

    Raises:
        ConfigError: Ray is not installed, or the address does not answer.
    """
    if cluster.ray is None:
        if cluster.ray_workers is not None:
            raise ConfigError("--ray-workers counts the workers of a cluster; give --ray too.")
        yield None
        return
    from pillion.cluster import WorkerPool, connect

    with connect(cluster.ray) as ray:
        model, workers = (engine.model, engine.computed, engine.device), cluster.ray_workers
        yield WorkerPool(ray, *model, workers, say=err.print)


def planned(pool: WorkerPool, source: str, how: TextOptions, work: Path) -> SlicePlan:
    """How the workers will read a source; what was found out of it is said.

    Args:
        pool: of workers.
        source: of the rows.
        how: which columns are read, and how.
        work: folder for what the plan keeps.
    """
    from pillion.cluster import plan_on

    plan = plan_on(pool, source, how.text_column, how.layout(), work)
    for note in plan.notes:
        err.print(note)
    return plan


def show_rates(rates: Sequence[dict[str, Any]]) -> None:
    """A line a worker on standard error: where it runs, what it did and how fast."""
    for one in rates:
        err.print(
            f"Worker {one['worker']}: {one['tokens']:,} tokens, {one['tokens_per_second']:,.0f} a "
            "second."
        )
