"""`--ray`: the options that verbs share, and the workers that they ask for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import err
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.cluster import Crew

RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Spread the work over a running Ray cluster: auto for the one that this machine is "
        "part of, or HOST:PORT of its head node. Needs pillion[ray].",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        "--ray-workers",
        metavar="N",
        min=1,
        help="Workers on the cluster, each with its own copy of the model; default: one a GPU, or "
        "one a CPU core where there are none.",
    ),
]


@contextmanager
def open_crew(
    address: str | None, workers: int | None, model: str, dtype: str, device: str
) -> Generator[Crew | None]:
    """The workers of a cluster, or None where no address is given.

    Raises:
        ConfigError: Ray is not installed, or the address does not answer.
    """
    if address is None:
        if workers is not None:
            raise ConfigError("--ray-workers counts the workers of a cluster; give --ray too.")
        yield None
        return
    from pillion.cluster import Crew, connect

    with connect(address) as ray:
        yield Crew(ray, model, dtype, device, workers, say=err.print)


def show_rates(rates: Sequence[dict[str, Any]]) -> None:
    """A line a worker on standard error: where it runs, what it did and how fast."""
    for one in rates:
        err.print(
            f"Worker {one['worker']}: {one['tokens']:,} tokens, {one['tokens_per_second']:,.0f} a "
            "second."
        )
