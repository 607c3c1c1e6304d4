"""docs/serve.md tells operators the limits, key words and metrics that the server has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from pillion.cli.app import app
from pillion.runtime import EngineStats
from pillion.serve.keys import Quota
from pillion.serve.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"


def table(header: str) -> list[list[str]]:
    """The cells of the table whose first column has this header."""
    _, after = PAGE.read_text(encoding="utf-8").split(f"\n| {header} |", 1)
    lines = after.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


SERVE = cast(Any, typer.main.get_command(app)).commands["serve"]
LIMITS = {row[0].strip("`"): float(row[1]) for row in table("option")}


def test_every_limit_of_a_request_is_on_the_page() -> None:
    known = {name for one in SERVE.params for name in one.opts if name.startswith("--max-")}
    assert known <= LIMITS.keys()


@pytest.mark.parametrize("option", LIMITS)
def test_a_limit_has_the_default_that_the_page_says(option: str) -> None:
    (found,) = [one.default for one in SERVE.params if option in one.opts]
    assert found == LIMITS[option]


def test_the_page_has_every_metric_of_the_server_and_no_other() -> None:
    told = {name for row in table("metric") for name in re.findall(r"(pillion_\w+)", row[0])}
    metrics = Metrics(EngineStats, lambda: 0)
    said = re.findall(r"^# TYPE (\w+) (\w+)$", metrics.text().decode(), re.M)
    assert told == {name for name, _ in said if not name.endswith("_created")}


def test_the_page_has_every_word_of_a_line_of_keys() -> None:
    told = {word for row in table("word") for word in re.findall(r"`(\w+)", row[0])}
    assert told == {"admin", "choose", "name", *(one.name for one in fields(Quota))}
