"""`pillion extract`: hidden states of texts, kept on disk for any number of trainings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import (
    SOURCES,
    Device,
    Dtype,
    Json,
    Layers,
    Model,
    Scoped,
    TooLong,
    Wrapping,
    app,
    err,
    out,
    print_json,
)
from pillion.cli.cluster import RayAddress, RayWorkers, open_crew, show_rates
from pillion.cli.failures import all_failed, finish, write_failed
from pillion.cli.layers import parse_layers
from pillion.cli.places import check_folder
from pillion.cli.progress import Bar, progress_bar
from pillion.cli.rows import USUAL_TEXTS, TextOptions, takes_rows
from pillion.core import OnTooLong, Scope, Template, Text

if TYPE_CHECKING:
    from pillion.cache import CacheReader, CacheSpec
    from pillion.cluster import Crew
    from pillion.extract import Encoded

FAILED_NAME = "failed.jsonl"


@app.command()
@takes_rows
def extract(
    data: Annotated[
        str,
        typer.Option(help=f"Texts: {SOURCES}."),
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for the states; give it to train as --cache.")
    ],
    how: TextOptions = USUAL_TEXTS,
    layers: Layers = None,
    template: Wrapping = "chat",
    scope: Scoped = None,
    model: Model = "embedded",
    dtype: Dtype = "auto",
    device: Device = "auto",
    on_too_long: TooLong = "error",
    ray: RayAddress = None,
    ray_workers: RayWorkers = None,
    as_json: Json = False,
) -> None:
    """Keep the hidden states of texts on disk.

    For several trainings on the same rows: each takes the folder as --cache. The same command run
    again finishes what an interrupted one left. Rows that cannot be used hold no states; they are
    listed in failed.jsonl in the folder, and the exit code is then 1.
    """
    from pillion.extract import cache_key, cache_spec, size_sentence
    from pillion.fit import default_scope

    check_folder(out_folder, "--out")
    with open_crew(ray, ray_workers, model, dtype, device) as crew, progress_bar() as bar:
        texts = how.texts(data)
        engine = _Here(model, dtype, device) if crew is None else _OnCluster(crew, bar)
        read = scope or default_scope([text for text in texts.texts if text], template)
        encoded = engine.encode(texts.texts, template, on_too_long, read)
        failed = all_failed(texts, encoded.failed)
        chosen = _layers(layers, encoded.identity.num_layers)
        key = cache_key(encoded.identity, template, on_too_long, encoded.token_ids)
        spec = cache_spec(encoded.identity, chosen, key, encoded.token_ids, read)
        err.print(size_sentence(spec))
        with engine.fill(encoded, spec, out_folder / "train", bar) as reader:
            spec = reader.spec
        write_failed(failed, texts, out_folder / FAILED_NAME)
    _show(spec, out_folder, len(failed), engine.rates, as_json)
    where = f"their reasons are in {out_folder / FAILED_NAME}"
    finish(failed, texts, where, how.skip_bad_rows)


class _Here:
    """This process does the work."""

    rates: list[dict[str, Any]] | None = None

    def __init__(self, model: str, dtype: str, device: str) -> None:
        from pillion.backends import load_backend

        self.backend = load_backend(model, dtype, device)

    def encode(
        self,
        texts: Sequence[Text | None],
        template: Template,
        on_too_long: OnTooLong,
        scope: Scope,
    ) -> Encoded:
        from pillion.extract import encode

        return encode(self.backend, texts, template, on_too_long, [scope])

    def fill(self, encoded: Encoded, spec: CacheSpec, folder: Path, bar: Bar) -> CacheReader:
        from pillion.extract import extract

        rows, scope = encoded.token_ids, spec.scope
        return extract(self.backend, rows, spec.layers, folder, spec.key, bar, scope)


class _OnCluster:
    """The workers of a cluster do the work."""

    def __init__(self, crew: Crew, bar: Bar) -> None:
        self.crew, self.bar = crew, bar
        self.rates: list[dict[str, Any]] | None = None

    def encode(
        self,
        texts: Sequence[Text | None],
        template: Template,
        on_too_long: OnTooLong,
        scope: Scope,
    ) -> Encoded:
        from pillion.cluster import encode_on

        return encode_on(self.crew, texts, template, on_too_long, self.bar, [scope])

    def fill(self, encoded: Encoded, spec: CacheSpec, folder: Path, bar: Bar) -> CacheReader:
        from pillion.cluster import Tally, extract_on

        tally = Tally()
        reader = extract_on(self.crew, encoded, spec, folder, bar, tally)
        self.rates = tally.rates()
        return reader


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
