"""The command line's frame: the program, its errors and exit codes.

Exit codes: 0 done, 1 the run failed, 2 the input cannot be used. `--debug` shows the traceback.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup, TyperOption

from pillion.core.extras import how_to_install
from pillion.core.lines import json_line
from pillion.errors import (
    BadRows,
    ConfigError,
    Interrupted,
    MismatchError,
    MissingColumn,
    PillionError,
)

VERBS = (
    *("setup", "doctor", "demo"),
    *(
        "layers",
        "label",
        "train",
        "predict",
        "explain",
        "evaluate",
        "calibrate",
        "report",
        "generate",
    ),
    *("inspect", "push", "pull", "extract", "serve", "vllm", "sglang", "bench"),
)
"""In the order in which a newcomer meets them."""


READ = {"--data", "--input", "--validation", "--text", "--messages", "--probe"}
"""Options that name what is read."""


class OnceEach(TyperGroup):
    """Commands that are told once what to read; any other option's last value wins, as usual."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Name, command and its arguments.

        Raises:
            ConfigError: an input is given twice to an option of one value: one would not be read.
        """
        name, command, rest = super().resolve_command(ctx, args)
        # A shell that completes words has not got all of them yet.
        if isinstance(command, TyperCommand) and not ctx.resilient_parsing:
            settings: Any = command.context_settings
            own = type(ctx)(command, info_name=name, parent=ctx, **settings)
            _, _, given = command.make_parser(own).parse_args(list(rest))
            for one, times in Counter(given).items():
                single = isinstance(one, TyperOption) and not one.multiple
                if single and times > 1 and READ.intersection(one.opts):
                    raise ConfigError(
                        f"{one.opts[0]} is given {times} times, this verb reads one; give it once."
                    )
        return name, command, rest


class Verbs(OnceEach):
    """The verbs, in the order of `VERBS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names for the help."""
        return sorted(self.commands, key=VERBS.index)


app = typer.Typer(
    name="pillion",
    cls=Verbs,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)

# Names and texts are data: brackets in them are no markup.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

QUIET = ContextVar("QUIET", default=False)
"""Whether the user wants to hear of no progress."""


@app.callback(invoke_without_command=True)
def pillion(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works with any verb.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show no progress; works with any verb.")
    ] = False,
) -> None:
    """Labels from the hidden states of the LLM that is already running.

    Try: pillion setup, then pillion demo. Help of a verb: pillion VERB --help.
    """
    if version:
        from importlib.metadata import version as version_of

        out.print(f"pillion {version_of('pillion')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program; every foreseen error is one sentence on standard error.

    Args:
        arguments: of the command line; None for the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words, debug = _without("--debug", given)
    words, quiet = _without("--quiet", words)
    QUIET.set(quiet)
    _write_utf8()
    try:
        with _warnings_as_sentences():
            sys.exit(_run(words))
    except PillionError as error:
        _fail(str(error) + hint(error, words), error.exit_code, debug)
    except KeyboardInterrupt:
        _fail("Interrupted.", Interrupted.exit_code, debug)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`), so no sentence can be shown.
        _drop_output()
        sys.exit(1)
    except Exception as error:
        _fail_unforeseen(error, debug)


def _fail_unforeseen(error: Exception, debug: bool) -> None:
    """What can still be told of an error that is none of pillion's own."""
    if isinstance(error, ModuleNotFoundError) and (install := how_to_install(error.name)):
        package = str(error.name).partition(".")[0]
        _fail(f"This needs {package}, which is not installed; run {install}.", 2, debug)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _drop_output()
        _fail("No space is left where the output goes; send it somewhere else.", 1, debug)
    what = f"Unexpected {type(error).__name__}: {error}"
    _fail(f"{what} (run again with --debug for the traceback)", 1, debug)


def hint(error: PillionError, words: Sequence[str]) -> str:
    """The option that does what the error asks for, where the verb has it and it is not given."""
    option, value = _remedy(error)
    if option is None or not _has_option(words, option):
        return ""
    if isinstance(error, BadRows):
        given = option in (word.split("=")[0] for word in words)
        return "" if given else f" Or leave such rows out: {option}."
    return f" Here: {option} {value}."


def _remedy(error: PillionError) -> tuple[str | None, str]:
    """An option and its value; None for no option."""
    if isinstance(error, MismatchError) and error.model:
        return "--model", shlex.quote(error.model)
    if isinstance(error, MissingColumn) and error.holds:
        return f"--{error.holds}-column", "NAME"
    return ("--skip-bad-rows" if isinstance(error, BadRows) else None), ""


def _has_option(words: Sequence[str], option: str) -> bool:
    """Whether the verb has it; engines of others take their model as an argument."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command = command.commands[word]
    return any(option in one.opts for one in command.params)


def _without(switch: str, words: list[str]) -> tuple[list[str], bool]:
    """The words without a switch, which may stand anywhere before `--`; whether it did."""
    end = words.index("--") if "--" in words else len(words)
    options = [word for word in words[:end] if word != switch]
    return options + words[end:], len(options) < end


def _run(words: list[str]) -> int:
    """The exit code of a verb; what it printed has then been written."""
    try:
        app(args=words or ["--help"], prog_name="pillion")
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
    if code == 130:  # typer's for Ctrl-C
        raise KeyboardInterrupt
    sys.stdout.flush()
    return code


def _write_utf8() -> None:
    """JSON is UTF-8 in any locale; a broken name is escaped rather than fatal."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


@contextmanager
def _warnings_as_sentences() -> Generator[None]:
    def say(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"pillion: warning: {_one_line(str(message))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = say
        yield


def _fail(message: str, exit_code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"pillion: {_one_line(message)}", file=sys.stderr)
    sys.exit(exit_code)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _drop_output() -> None:
    """What is still buffered goes nowhere, so that the exit does not fail on it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """One JSON object, on standard output."""
    sys.stdout.write(json_line(value) + "\n")
