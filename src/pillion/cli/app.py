"""The command line's frame: the program, its errors and exit codes, options that verbs share.

Exit codes: 0 done, 1 the run failed, 2 the input cannot be used. `--debug` shows the traceback.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pillion.core import OnTooLong, Template
from pillion.errors import Interrupted, PillionError, unknown_name

app = typer.Typer(
    name="pillion",
    help="Labels from the hidden states of the LLM that is already running.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Model = Annotated[
    str, typer.Option(help="Causal LM: 'embedded', a folder, or a hub name.", show_default=True)
]
Dtype = Annotated[str, typer.Option(help="Weights: auto, bfloat16, float16, float32.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
TextColumnName = Annotated[str, typer.Option("--text-column", help="Column of the texts.")]
LabelColumnName = Annotated[str, typer.Option("--label-column", help="Column of the labels.")]
TooLong = Annotated[
    str,
    typer.Option(
        "--on-too-long",
        help="A text beyond the context window: error, truncate-head or truncate-tail.",
    ),
]
AllowMismatch = Annotated[
    bool,
    typer.Option(
        "--allow-mismatch",
        help="Warn only of other weights, tokenizer or template; never of another shape.",
    ),
]
Probes = Annotated[list[str], typer.Option("--probe", help="Folder of a probe; may be repeated.")]


def main(arguments: list[str] | None = None) -> None:
    """Runs the program; every foreseen error is one sentence on standard error.

    Args:
        arguments: of the command line; None for the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(args=words, prog_name="pillion")
    except PillionError as error:
        _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        _fail("Interrupted.", Interrupted.exit_code, debug)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _fail(
            f"Unexpected {type(error).__name__}: {error} (run with --debug for the traceback)",
            1,
            debug,
        )


def _fail(message: str, exit_code: int, debug: bool) -> None:
    if debug:
        raise
    print(f"pillion: {message}", file=sys.stderr)
    sys.exit(exit_code)


def check_template(name: str | None) -> Template | None:
    """The template of that name.

    Raises:
        ConfigError: if it is neither raw nor chat.
    """
    if name is not None and name not in get_args(Template):
        raise unknown_name("--template", name, get_args(Template))
    return cast(Template | None, name)


def check_too_long(name: str) -> OnTooLong:
    """What to do with long texts, by name.

    Raises:
        ConfigError: for an unknown one.
    """
    if name not in get_args(OnTooLong):
        raise unknown_name("--on-too-long", name, get_args(OnTooLong))
    return cast(OnTooLong, name)


def print_json(value: Any) -> None:
    """One JSON object, on standard output."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


class Bar:
    """A progress bar with tokens a second and time left; plain lines where there is no terminal."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.stages: dict[str, TaskID] = {}

    def __call__(
        self, stage: str, done_tokens: int, total_tokens: int, metric: float | None = None
    ) -> None:
        """Moves the bar of a stage; see `pillion.extract.progress.Progress`."""
        if stage not in self.stages:
            self.stages[stage] = self.bars.add_task(stage, total=total_tokens, rate="", metric="")
        task = self.stages[stage]
        self.bars.update(task, completed=done_tokens, total=total_tokens)
        speed = self.bars.tasks[task].speed
        self.bars.update(task, rate=f"{speed:,.0f} tokens/s" if speed else "")
        if metric is not None:
            self.bars.update(task, metric=f"validation {metric:.3f}")


@contextmanager
def progress_bar() -> Generator[Bar]:
    """A bar on standard error, drawn only if that is a terminal; gone when the work is done."""
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
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        yield Bar(bars)
