"""`pillion bench`: its verbs come with a package of their own, asked for when one is wanted."""

from __future__ import annotations

import importlib
from typing import Any

import typer

from pillion.cli.app import OnceEach, app
from pillion.core.extras import require


class BenchVerbs(OnceEach):
    """The verbs of `pillion_bench`: loaded where one of them or their help is wanted.

    They put themselves under `bench`; all methods raise a `ConfigError` without the package.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names for the help."""
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of that name."""
        self._load()
        return super().get_command(ctx, cmd_name)

    def _load(self) -> None:
        require("pillion_bench", "pillion bench")
        importlib.import_module("pillion_bench.cli")
        self.commands = typer.main.get_group(bench).commands


bench = typer.Typer(
    cls=BenchVerbs,
    help="Compare methods by measuring them, into result files.",
    no_args_is_help=True,
    rich_markup_mode=None,  # as of the whole program: they are built apart from it
)
app.add_typer(bench, name="bench")


@bench.callback()
def group() -> None:
    """Compare methods by measuring them, into result files."""
