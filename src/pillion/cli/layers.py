"""`pillion layers`: which layers to read; and layers as people type them: `0-15`, `0,4,8`, both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pillion.cli.app import app, err, out, print_json
from pillion.cli.failures import fitting, say_left_out
from pillion.cli.options import EngineOptions, Json, Scoped, Without, Wrapping, takes_options
from pillion.cli.output import write_lines
from pillion.cli.places import check_file
from pillion.cli.progress import progress_bar
from pillion.cli.rows import RowOptions
from pillion.core import defaults
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.data import Rows
    from pillion.select import Identification

AUTO = "auto"


def parse_layers(
    text: str | None, num_layers: int, option: str = "--layers"
) -> tuple[int, ...] | None:
    """The layers that a text means, ascending; None for none given (all).

    Args:
        text: such as `0-15,30`.
        num_layers: of the model; its last layer's number.
        option: that it was given by.

    Raises:
        ConfigError: for what is not a number, or a layer that the model does not have.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?\s*", part)
        if numbers is None:
            raise ConfigError(f"{option} has {part!r}; write numbers and ranges, such as 0-15,30.")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first:
            raise ConfigError(f"{option} has {part!r}; write a range from low to high.")
        if last > num_layers:
            raise ConfigError(f"{option} has {part!r}; this model has layers 0 to {num_layers}.")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What is looked at, and where the result goes."""

    rows: Annotated[
        int, typer.Option(min=10, help="Rows to read, drawn at random; fewer if there are fewer.")
    ] = defaults.LAYERS_ROWS
    pool: Annotated[
        Literal["mean", "mean-rms", "last"],
        typer.Option(help="How a text's tokens become one vector a layer."),
    ] = defaults.POOL
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="A trained gate: which layers and tokens it weighs is shown, too."
        ),
    ] = None
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Result file with all numbers, for pillion report.")
    ] = None
    plot: Annotated[
        Path | None, typer.Option(help="Draw score and silhouette over layers: a PNG file.")
    ] = None
    template: Wrapping = None
    scope: Scoped = None

    def check(self, data: str) -> None:
        """Returns if the files can be written.

        Raises:
            ConfigError: a place where no file can be, or that of the rows.
        """
        check_file(self.out_file, "--out", data)
        check_file(self.plot, "--plot", data)


@app.command()
@takes_options
def layers(
    data: Annotated[
        str,
        typer.Option(help="Labelled texts: a Parquet, CSV or JSON Lines file, or hf:NAME[:SPLIT]."),
    ],
    how: RowOptions,
    asked: StudyOptions,
    engine: Annotated[EngineOptions, Without("exact", "allow_mismatch")],
    as_json: Json = False,
) -> None:
    """Find out which layers to read, before any probe is trained.

    Shows what each layer holds of the labels and what reading 1, 2, 4, 8 or all layers gives and
    costs, with the noise of each difference, and recommends the set that pillion train --layers
    auto takes. One pass over the texts; no state of a token is kept. --out writes a result file for
    pillion report.
    """
    from pillion.select.result import study_result

    asked.check(data)
    read = how.rows(data)
    found, facts = _identify(read, how, asked, engine)
    path = Path(data).name
    of = {"path": path, "sha256": read.sha256, "num_rows": facts.pop("rows"), "split": "all rows"}
    study = study_result(found, Path(path).stem, of, {"pool": asked.pool} | facts)
    _write(study, asked)
    if as_json:
        return print_json(study)
    _show(study)


def _write(study: dict[str, Any], asked: StudyOptions) -> None:
    """The files that were asked for."""
    if asked.out_file is not None:
        write_lines([json.dumps(study, indent=1)], asked.out_file)
    if asked.plot is not None:
        from pillion.report.layers import plot_layers

        plot_layers(study, asked.plot)


def _identify(
    read: Rows, how: RowOptions, asked: StudyOptions, engine: EngineOptions
) -> tuple[Identification, dict[str, Any]]:
    """What was found, and on how many rows, of which words and model."""
    import numpy as np

    from pillion.data import LabelSpace
    from pillion.fit import default_scope
    from pillion.runtime import checked, encode_rows, usual_template
    from pillion.select import Targets, identify, sample

    assert read.labels is not None
    space = LabelSpace.of(read.labels, several=read.several)
    backend, on_too_long = engine.load().backend, engine.on_too_long
    wrapping = usual_template(backend.identity, asked.template, err.print)
    scope = asked.scope or default_scope(read.texts, wrapping)
    read = fitting(read, backend, wrapping, on_too_long, scope, how.skip_bad_rows)
    say_left_out(read, asked.out_file)
    assert read.labels is not None
    taken = sample(len(read), asked.rows)
    ids = space.encode(read.labels)[taken]
    gate = None if asked.probe is None else checked(backend, asked.probe)
    some = read.some(taken)
    tokens = encode_rows(
        backend, some.texts, wrapping, on_too_long, scopes=[scope], numbers=some.numbers
    )
    groups = None if some.groups is None else np.array(some.groups)
    targets = Targets(ids, space.task, len(space.names), groups)
    with progress_bar() as bar:
        found = identify(backend, tokens, targets, asked.pool, gate, bar, scope)
    settings = {"template": wrapping, "scope": scope, "model": backend.identity.name}
    return found, {"rows": len(taken)} | settings


def _show(study: dict[str, Any]) -> None:
    name = study["settings"]["score"]
    out.print(f"layer  {name:>8}  silhouette  change  cosine   squared   fisher  weight entropy")
    for row in study["results"]:
        cells = [
            f"{row['layer']:>5}",
            f"{_number(row['score']):>8}",
            f"{_number(row['silhouette']):>8}{' *' if row['inflection'] else '  '}",
            f"{_number(row['relative_change'], '+.2f'):>6}" if row["layer"] else " " * 6,
            f"{_number(row['cosine']):>8}",
            f"{_number(row['squared']):>8}",
            f"{_number(row['fisher']):>7}",
            _attention(row),
        ]
        out.print("  ".join(cells).rstrip())
    _show_singles(study["single"])
    out.print(f"\nlayers  {name:>8}  more than recommended     ms/1k  gate, KB  states  blocks")
    for one in study["sets"]:
        more = _spread(one["more_than_recommended"])
        out.print(
            f"{one['num_layers']:>6}  {_number(one['score']):>8}  {more:<24}"
            f"  {one['milliseconds']:>5.2f}  {one['probe_bytes'] / 1e3:>8.0f}"
            f"  {one['state_bytes_a_token'] / 1e3:>6.1f}  {one['blocks_share']:>6.0%}"
        )
    out.print("95 % intervals over draws of the rows; ms for 1,000 tokens, states in KB a token")
    chosen, score = study["recommended"]["layers"], _number(study["recommended"]["score"])
    what = f"--layers {_listed(chosen)} ({name} {score})"
    out.print(f"\nRecommended: {what}, as train --layers auto takes.")


def _show_singles(single: dict[str, Any]) -> None:
    """What one layer alone would give; nothing to choose by where more than one may be read."""
    out.print("* inflection point of the silhouette curve")
    picked, best = single["by_silhouette"], single["by_sweep"]
    lost = single["lost_by_silhouette"]
    more = "" if lost is None else f", {_spread(lost)} more"
    picked_score, best_score = _number(picked["score"]), _number(best["score"])
    out.print(f"\nOne layer alone: {_layer(picked['layer'])} by its silhouette ({picked_score}),")
    for by, words in (("by_weight", "the gate's weight"), ("by_entropy", "the gate's entropy")):
        if single[by]["layer"] is not None:
            out.print(f"  {single[by]['layer']} by {words} ({_number(single[by]['score'])}),")
    out.print(f"  {_layer(best['layer'])} by its score ({best_score}{more})")


def _attention(row: dict[str, Any]) -> str:
    """What a gate does with a layer; nothing where none was given."""
    if row["weight"] is None:
        return ""
    return f"{row['weight']:>6.3f} {_number(row['entropy'], '.3f'):>7}"


def _number(value: float | None, how: str = ".4f") -> str:
    return "undef." if value is None else format(value, how)


def _spread(difference: dict[str, Any] | None) -> str:
    """A difference with its interval; nothing where there is none."""
    if difference is None:
        return ""
    low, high = difference["interval"]
    return f"{difference['value']:+.4f} [{low:+.3f}, {high:+.3f}]"


def _layer(layer: int | None) -> str:
    return "undefined" if layer is None else str(layer)


def _listed(layers: list[int]) -> str:
    """As `--layers` takes them; a run of all is a range."""
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ",".join(map(str, layers))
