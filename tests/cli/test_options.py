"""Groups of options: what a verb takes of them, and whose defaults they show."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from pillion.backends.paged import PagedSettings
from pillion.cli.calibrate_options import WishOptions
from pillion.cli.generate import AnswerOptions
from pillion.cli.layers import StudyOptions
from pillion.cli.options import EngineOptions, Without, takes_options
from pillion.cli.rows import RowOptions, TextOptions
from pillion.cli.serve_options import AccessOptions, LimitOptions, SizeOptions
from pillion.cli.train_options import GridOptions, LearningOptions, ReadingOptions
from pillion.core import defaults
from pillion.data import TableLayout
from pillion.errors import ConfigError
from pillion.evals import CalibrationSettings
from pillion.fit import FitSettings
from pillion.runtime import Sampling
from pillion.select import MAX_ROWS
from pillion.serve.run import Place
from pillion.serve.settings import Limits
from pillion.train import ProbeConfig, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Ends:
    first: Annotated[int, typer.Option(min=1, help="The first.")]
    last: Annotated[int, typer.Option(help="The last.")] = 9


@dataclass(frozen=True, kw_only=True)
class More(Ends):
    """Options of a base come first."""

    step: Annotated[int, typer.Option(help="The step.")] = 1


def asked(verb: Any, *words: str) -> Any:
    program = typer.Typer(rich_markup_mode=None)
    program.command()(takes_options(verb))
    return CliRunner().invoke(program, words)


def test_a_group_stands_for_its_options_in_its_place() -> None:
    def verb(
        before: Annotated[str, typer.Option()],
        ends: More,
        after: Annotated[bool, typer.Option("--after")] = False,
    ) -> None:
        """Does it."""
        print(before, ends, after)

    done = asked(verb, "--before", "b", "--first", "2", "--step", "3", "--after")
    assert done.output.strip() == f"b {More(first=2, step=3)} True"
    shown = asked(verb, "--help").output
    places = [shown.index(f"--{name}") for name in ("before", "first", "last", "step", "after")]
    assert places == sorted(places)
    assert "Does it." in shown
    assert "[default: 9]" in shown
    assert "Missing option '--first'" in asked(verb, "--before", "b").output
    assert "greater than or equal to 1" in asked(verb, "--before", "b", "--first", "0").output


def test_options_left_out_of_a_group_are_none_of_the_verb_and_keep_their_defaults() -> None:
    def verb(ends: Annotated[More, Without("last", "step")]) -> None:
        """Does it."""
        print(ends.first, ends.last, ends.step)

    assert asked(verb, "--first", "4").output.split() == ["4", "9", "1"]
    assert "No such option" in asked(verb, "--first", "4", "--last", "5").output


def test_options_say_the_defaults_of_the_settings_that_they_make() -> None:
    assert LimitOptions().limits() == Limits()
    access, ends = AccessOptions(), LimitOptions()
    assert Place(access.host, access.port, ends.drain_seconds, ends.notice_seconds) == Place()
    sizes, paged = SizeOptions(), PagedSettings()
    assert (sizes.cache_tokens, sizes.max_requests) == (paged.cache_tokens, paged.max_requests)
    answer = AnswerOptions()
    assert Sampling(answer.temperature, answer.top_p, answer.seed) == Sampling()
    assert GridOptions().configs() == [ProbeConfig()]
    assert LearningOptions().settings() == TrainSettings()
    read = ReadingOptions().settings(defaults.TEMPLATE, 4, on_too_long=EngineOptions().on_too_long)
    assert read == FitSettings()
    assert WishOptions().settings() == CalibrationSettings()
    assert StudyOptions().rows == MAX_ROWS
    assert RowOptions().layout() == TextOptions().layout() == TableLayout()


def test_options_of_rows_are_typed_again_as_they_were_given() -> None:
    rows = RowOptions(text_column="t", turn_labels=False, delimiter=";", skip_bad_rows=True)
    words = ["--text-column", "t", "--row-labels", "--delimiter", ";", "--skip-bad-rows"]
    assert rows.words() == words
    assert RowOptions().words() == []


def test_options_that_contradict_each_other_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="--exact computes in float32"):
        EngineOptions(exact=True, dtype="bfloat16")
    with pytest.raises(ConfigError, match="delimiter is 'abc'"):
        RowOptions(delimiter="abc")


def test_options_load_neither_torch_nor_pydantic() -> None:
    heavy = "{'torch', 'pydantic', 'transformers', 'fastapi', 'sklearn'}"
    code = f"import sys, pillion.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
