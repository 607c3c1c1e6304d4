"""The sets that `train` reads: named, mapped to common labels, weighed, and joined.

One set without a mapping is read as any verb reads it.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pillion.cli.app import err
from pillion.cli.rows import RowOptions
from pillion.core import defaults
from pillion.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from pillion.data import Rows

_NAMED = re.compile(r"([\w-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """Rows beside those of `--data`, and what several sets make of each other."""

    validation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SET=]PATH",
            help="Rows that choose epoch and threshold; default: a tenth of --data, or a fifth "
            f"below {defaults.FEW_ROWS:,} rows. With several sets, SET names theirs.",
        ),
    ] = None
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="SET.LABEL=NAME",
            help="What a label of a set is called in the probe; repeat it for others.",
        ),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weight",
            metavar="SET=SHARE",
            help="Share of a set in the loss, 0 to 1; default: the share of its rows.",
        ),
    ] = None


def read_sets(how: RowOptions, data: Sequence[str], given: SetOptions) -> list[Rows]:
    """The training rows and, where there are any, the validation rows.

    Args:
        how: rows are read, of every set.
        data: sources, each maybe as NAME=PATH.
        given: validation rows likewise, of several sets each called as one of them; common names of
            labels; shares of the loss.

    Raises:
        ConfigError: a set or label that is not there, a name used twice, or shares that do not fit.
        DataError: rows that cannot be used, or sets that share no label.
    """
    validation, maps, weights = given.validation or (), given.maps or (), given.weights or ()
    if len(data) == 1 and len(validation) < 2 and not maps and not weights:
        return [how.rows(named(source)[1]) for source in (*data, *validation)]
    sources = _by_name("--data", data)
    held = _held(validation, sources)
    renamed, shares = _maps(maps, sources), _shares(weights, sources)
    training = _join(how, sources, renamed, shares, None)
    return [training, _join(how, held, renamed, {}, training)] if held else [training]


def named(source: str) -> tuple[str, str]:
    """Name and path of a set: NAME=PATH, or a path, whose last part without its ending names it."""
    found = _NAMED.fullmatch(source)
    if found and not Path(source).exists() and not glob.glob(source):
        return found[1], found[2]
    place = PurePath(source)
    return (place.name if Path(source).is_dir() else place.stem), source


def _by_name(option: str, sources: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for source in sources:
        name, path = named(source)
        if name in found:
            raise ConfigError(
                f"{option} has two sets called {name!r} ({found[name]} and {path}); give one "
                "another name, as NAME=PATH."
            )
        found[name] = path
    return found


def _held(validation: Sequence[str], sources: dict[str, str]) -> dict[str, str]:
    """The validation rows, by the names of the sets that they belong to."""
    held = _by_name("--validation", validation)
    if len(sources) == 1 and len(held) == 1:
        return dict(zip(sources, held.values(), strict=True))
    for name in held:
        if name not in sources:
            raise ConfigError(
                f"--validation {held[name]} is called {name!r}, which is no set of --data "
                f"({', '.join(sources)}); write it as SET=PATH."
            )
    return held


def _join(
    how: RowOptions,
    sources: dict[str, str],
    renamed: dict[str, dict[str, str]],
    shares: dict[str, float],
    training: Rows | None,
) -> Rows:
    from pillion.data import DataSet, join_sets

    sets = [
        DataSet(
            name,
            how.rows(path, **_own_columns(how, renamed[name])),
            renamed[name],
            shares.get(name),
        )
        for name, path in sources.items()
    ]
    rows = join_sets(sets, training)
    for note in rows.notes[sum(len(one.rows.notes) for one in sets) :]:
        err.print(note)
    return rows


def _own_columns(how: RowOptions, renamed: dict[str, str]) -> dict[str, Any]:
    """Of label columns those that a set has, by its own names for them; for `RowOptions.rows`."""
    wanted = how.layout().label_columns
    if not wanted:
        return {}
    own = [column for column, label in renamed.items() if label in wanted]
    return {"label_columns": tuple(dict.fromkeys((*own, *wanted))), "some_columns": True}


def _maps(given: Sequence[str], sources: dict[str, str]) -> dict[str, dict[str, str]]:
    """Set -> label -> common name, of SET.LABEL=NAME each."""
    found: dict[str, dict[str, str]] = {name: {} for name in sources}
    for one in given:
        place, equals, common = one.rpartition("=")
        whose = [name for name in sources if place.startswith(f"{name}.")]
        name = max(whose, key=len, default=place.partition(".")[0])
        label = place[len(name) + 1 :]
        if not equals or not common or not label:
            raise ConfigError(f"--map got {one!r}; write SET.LABEL=NAME.")
        if not whose:
            raise ConfigError(f"--map {one}: {unknown_name('set', name, sources)}")
        if found[name].get(label, common) != common:
            raise ConfigError(
                f"--map gives {name}.{label} two names ({found[name][label]!r} and {common!r}); "
                "give one."
            )
        found[name][label] = common
    return found


def _shares(given: Sequence[str], sources: dict[str, str]) -> dict[str, float]:
    """Set -> share of the loss, of SET=SHARE each."""
    found: dict[str, float] = {}
    for one in given:
        name, _, text = one.partition("=")
        try:
            share = float(text)
        except ValueError:
            raise ConfigError(f"--weight got {one!r}; write SET=SHARE, such as a=0.5.") from None
        if name not in sources:
            raise ConfigError(f"--weight {one}: {unknown_name('set', name, sources)}")
        if name in found:
            raise ConfigError(f"--weight is given twice for set {name!r}; give it once.")
        found[name] = share
    return found
