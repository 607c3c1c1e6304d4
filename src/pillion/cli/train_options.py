"""The options of `pillion train`, in groups, and the settings that they mean."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pillion.cli.layers import AUTO, parse_layers
from pillion.cli.options import SEED_MAX, Placed, Scoped, Wrapping
from pillion.core import Template, defaults
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.fit import FitSettings
    from pillion.train import ProbeConfig, TrainSettings

_FEW = f"below {defaults.FEW_ROWS:,} rows"


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Which probes are trained: every combination of what is given."""

    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            "--probe",
            metavar="NAME",
            help=f"Kind of probe: {defaults.KIND} (default), gate-mlp, gate-paper, attention, "
            "multimax, rolling, concat, mha, mha-causal or pooling; or auto, which chooses. This "
            "and the next three may be repeated: every combination is trained.",
        ),
    ] = None
    heads: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Number of heads, for a probe that has several."),
    ] = None
    lr: Annotated[
        list[float] | None,
        typer.Option(metavar="RATE", help="Learning rate; default: the probe's own."),
    ] = None
    seed: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=0, max=SEED_MAX, help="Seed of the initial weights; default: 0."
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of every probe trained, such as members=3; may be repeated.",
        ),
    ] = None

    def configs(self) -> list[ProbeConfig]:
        """Every combination of what was given.

        Raises:
            ConfigError: a probe or a setting that is not known, or a value that does not fit.
        """
        from pillion.train import ProbeConfig

        own = _pairs(self.settings or [])
        kinds, heads = self.kind or [defaults.KIND], self.heads or [None]
        if self.heads and "num_heads" in own:
            raise ConfigError("--heads and --set num_heads both say how many heads; give one.")
        grid = itertools.product(kinds, heads, self.lr or [None], self.seed or [0])
        return [
            make_strict(
                ProbeConfig,
                {
                    "probe": kind,
                    "settings": own if count is None else {**own, "num_heads": count},
                    "learning_rate": rate,
                    "seed": seed,
                },
            )
            for kind, count, rate, seed in grid
        ]


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How all of them are trained."""

    epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Passes over the rows at most, 1 to 1,000; default: {defaults.EPOCHS}, more "
            f"below {defaults.VISITS // defaults.EPOCHS} rows, and twice as many while the last is "
            f"the best, up to {defaults.LONGEST}."
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            help=f"Rows a step; default: {defaults.STEP_ROWS}, or {defaults.STEP_ROWS_OF_FEW} "
            f"{_FEW}."
        ),
    ] = None
    balanced: Annotated[
        bool, typer.Option("--balanced", help="Every label counts the same, however rare.")
    ] = False
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Train again, on the validation rows too, for the best number of epochs.",
        ),
    ] = False
    prefixes: Annotated[
        Literal["none", "uniform", "softmax"] | None,
        typer.Option(
            help="Learn from prefixes of each row, too, weighted equally or by the softmax of "
            "their scores; default: uniform for probes of responses, else none."
        ),
    ] = None

    def settings(self) -> TrainSettings:
        """Those of the training; what was not given is left to them.

        Raises:
            ConfigError: a value out of range.
        """
        from pillion.train import TrainSettings

        given = {name: getattr(self, name) for name in ("epochs", "batch_size", "prefixes")}
        found = {name: value for name, value in given.items() if value is not None}
        weights = "balanced" if self.balanced else "none"
        return make_strict(TrainSettings, found | {"class_weights": weights, "refit": self.refit})


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What of the rows and of the model is learnt from."""

    positive: Annotated[
        str | None, typer.Option(help="Which of two labels is positive; default: by their names.")
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to read, such as 0-15 or 0,4,8 (0: embeddings), or auto: the fewest that "
            "hold nearly all, as pillion layers finds them; default: all."
        ),
    ] = None
    depths: Annotated[
        str | None,
        typer.Option(
            help="Layers at which the probe can be read out, too, such as 8,16,24, or auto: texts "
            "that are only classified may stop there, once calibrate --exit has chosen when."
        ),
    ] = None
    read: Annotated[
        Literal["states", "router"],
        typer.Option(
            help="What is read: the layers' states, or beside them the logits of every router of a "
            "mixture of experts."
        ),
    ] = defaults.READ
    template: Wrapping = None
    scope: Scoped = None
    contexts: Placed = defaults.CONTEXTS
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Learn from each row once more, changed by one of these: case, spaces, leet, "
            "typos, padding.",
        ),
    ] = None

    def settings(self, template: Template, num_layers: int, **others: Any) -> FitSettings:
        """Those of a fit.

        Args:
            template: how texts are wrapped, where the model had a word in it.
            num_layers: of the model.
            others: settings that are not of this group.

        Raises:
            ConfigError: layers that the model does not have, or contexts or changes not known.
        """
        from pillion.data import contexts_of
        from pillion.fit import FitSettings

        return FitSettings(
            template=template,
            scope=self.scope,
            contexts=contexts_of(self.contexts),
            augment=_changes(self.augment),
            layers=AUTO if self.layers == AUTO else parse_layers(self.layers, num_layers),
            depths=AUTO
            if self.depths == AUTO
            else parse_layers(self.depths, num_layers, "--depths") or (),
            read=self.read,
            positive=self.positive,
            **others,
        )


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """Where the hidden states are kept between epochs and trainings."""

    cache: Annotated[
        Path | None,
        typer.Option(help="Keep the hidden states in this folder, for the next training on them."),
    ] = None
    live: Annotated[
        bool, typer.Option("--live", help="Keep no states on disk: run the model in every epoch.")
    ] = False


def make_strict(settings: Any, options: dict[str, Any]) -> Any:
    """Settings of the options given.

    Raises:
        ConfigError: for a value out of range, in one sentence.
    """
    from pydantic import ValidationError

    from pillion.core.strict import first_fault

    try:
        return settings(**options)
    except ConfigError as error:
        cause = error.__cause__
        fault = first_fault(cause) if isinstance(cause, ValidationError) else None
        if fault is None or fault.field not in settings.model_fields:
            raise  # of a probe's own settings, whose names are no options
        named = {"learning_rate": "lr", "probe": "kind"}.get(fault.field, fault.field)
        option = named.replace("_", "-")
        raise ConfigError(f"--{option} is {fault.value!r}: {fault.message}.") from error


def _pairs(settings: list[str]) -> dict[str, str]:
    """NAME=VALUE as a mapping; the probe checks names and values.

    Raises:
        ConfigError: for one without `=`, or a name with two values.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set got {setting!r}; write NAME=VALUE.")
        if found.setdefault(name, value) != value:
            raise ConfigError(f"--set gives {name} twice ({found[name]} and {value}); give one.")
    return found


def _changes(given: str | None) -> tuple[str, ...]:
    """Changes of texts, each once; checked before anything is read."""
    from pillion.data.augment import check_kinds

    kinds = tuple(dict.fromkeys(one.strip() for one in (given or "").split(",") if one.strip()))
    check_kinds(kinds)
    return kinds
