"""`pillion extract`: hidden states of texts, kept on disk for any number of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import app, err, out, print_json
from pillion.cli.cluster import ClusterOptions, open_pool, planned, show_rates
from pillion.cli.failures import all_failed, check_some_left, finish, write_failed
from pillion.cli.layers import parse_layers
from pillion.cli.options import (
    SOURCES,
    EngineOptions,
    Json,
    Layers,
    Scoped,
    Without,
    Wrapping,
    takes_options,
)
from pillion.cli.places import check_folder, clear, clear_inside
from pillion.cli.progress import Bar, progress_bar
from pillion.cli.rows import TextOptions
from pillion.core import FailedRow, Template, scope_of_ends
from pillion.errors import DataError

if TYPE_CHECKING:
    from pillion.cache import CacheSpec
    from pillion.cluster import WorkerPool
    from pillion.data import SlicePlan, Texts

FAILED_NAME = "failed.jsonl"
WORK_NAME = ".work"
"""Folder beside the states, for the tokens of a run on a cluster, until it ends."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which states are kept."""

    layers: Layers = None
    template: Wrapping = None
    scope: Scoped = None


@app.command()
@takes_options
def extract(
    data: Annotated[
        str,
        typer.Option(help=f"Texts: {SOURCES}."),
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the states; give it to train as --cache.")
    ],
    how: TextOptions,
    reading: ReadOptions,
    engine: Annotated[EngineOptions, Without("exact", "allow_mismatch")],
    cluster: ClusterOptions,
    as_json: Json = False,
) -> None:
    """Keep the hidden states of texts on disk.

    For several trainings on the same rows: each takes the folder as --cache. The same command run
    again finishes what an interrupted one left. Rows that cannot be used hold no states; they are
    listed in failed.jsonl in the folder, and the exit code is then 1.
    """
    check_folder(out_folder, "--out")
    with open_pool(cluster, engine) as pool, progress_bar() as bar:
        asked = _Asked(data, out_folder, how, reading, engine, bar)
        done = _here(asked) if pool is None else _on_cluster(asked, pool)
        write_failed(done.failed, done.rows, out_folder / FAILED_NAME)
    _show(done.spec, out_folder, len(done.failed), done.rates, as_json)
    where = f"their reasons are in {out_folder / FAILED_NAME}"
    finish(done.failed, done.rows, where, how.skip_bad_rows)


@dataclass(frozen=True)
class _Asked:
    """What is wanted, wherever it is done."""

    data: str
    out: Path
    how: TextOptions
    reading: ReadOptions
    engine: EngineOptions
    bar: Bar

    @property
    def cache(self) -> Path:
        """Folder of the states."""
        return self.out / "train"


@dataclass(frozen=True)
class _Done:
    """What has become of it."""

    spec: CacheSpec
    rows: Texts | SlicePlan
    failed: Sequence[FailedRow]
    rates: list[dict[str, Any]] | None = None


def _here(asked: _Asked) -> _Done:
    """This process does the work."""
    from pillion.extract import cache_key, cache_spec, encode, extract, size_sentence
    from pillion.fit import default_scope
    from pillion.runtime import usual_template

    texts = asked.how.texts(asked.data)
    reading, on_too_long = asked.reading, asked.engine.on_too_long
    backend = asked.engine.load().backend
    template = usual_template(backend.identity, reading.template, err.print)
    read = reading.scope or default_scope([one for one in texts.texts if one], template)
    encoded = encode(backend, texts.texts, template, on_too_long, [read])
    failed, rows = all_failed(texts, encoded.failed), encoded.token_ids
    chosen = _layers(reading.layers, backend.identity.num_layers)
    key = cache_key(backend.identity, template, on_too_long, rows)
    err.print(size_sentence(cache_spec(backend.identity, chosen, key, rows, read)))
    with extract(backend, rows, chosen, asked.cache, key, asked.bar, read) as reader:
        return _Done(reader.spec, texts, failed)


def _on_cluster(asked: _Asked, pool: WorkerPool) -> _Done:
    """The workers of a cluster do the work; no text comes here but those of the first slice."""
    from pillion.cluster import Tally, Tokenise, extract_on, tokenise_on
    from pillion.extract import size_sentence
    from pillion.fit import default_scope

    work, reading = asked.out.absolute() / WORK_NAME, asked.reading
    plan = planned(pool, asked.data, asked.how, work)
    # The model is not here: its workers refuse a chat where it has no template for one.
    template: Template = reading.template or "chat"
    first = [one for one in plan.slices[0].read()[0] if one]
    read = reading.scope or default_scope(first, template)
    tokenise = Tokenise(work, template, asked.engine.on_too_long, read)
    tokens = tokenise_on(pool, plan, tokenise, asked.bar)
    if reading.scope is None and read != (all_read := scope_of_ends(tokens.ends, template)):
        # The first slice was not like the others.
        read, tokenise = all_read, replace(tokenise, scope=all_read)
        tokens = tokenise_on(pool, plan, tokenise, asked.bar)
    try:
        check_some_left(tokens.failed, plan)
    except DataError:
        clear_inside(work)
        raise
    spec = tokens.spec(_layers(reading.layers, tokens.identity.num_layers), read)
    err.print(size_sentence(spec))
    tally = Tally()
    extract_on(pool, tokens, spec, asked.cache, asked.bar, tally)
    clear(work)
    return _Done(spec, plan, tokens.failed, tally.rates())


def _layers(text: str | None, num_layers: int) -> tuple[int, ...]:
    return parse_layers(text, num_layers) or tuple(range(num_layers + 1))


def _show(
    spec: CacheSpec,
    folder: Path,
    num_failed: int,
    rates: list[dict[str, Any]] | None,
    as_json: bool,
) -> None:
    facts: dict[str, Any] = {
        "out": str(folder),
        "rows": len(spec.lengths),
        "failed": num_failed,
        "tokens": sum(spec.lengths),
        "layers": list(spec.layers),
        "dtype": spec.dtype,
        "bytes": spec.num_bytes,
    }
    if as_json:
        return print_json(facts if rates is None else {**facts, "workers": rates})
    show_rates(rates or [])
    out.print(f"{facts['rows']:,} rows in {folder}, {spec.num_bytes / 1e9:.2f} GB.")
