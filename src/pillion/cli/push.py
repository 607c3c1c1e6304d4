"""`pillion push`: a probe to a hub or a file system elsewhere."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.options import Json
from pillion.errors import ConfigError

Place = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="hf://OWNER/NAME of the Hugging Face hub, or a folder's URL: file://, s3://, ...",
    ),
]
Replace = Annotated[bool, typer.Option("--replace", help="Replace the probe that lies there.")]


@app.command()
def push(
    probe: Annotated[str, typer.Argument(help="Folder of a trained probe.")],
    url: Place,
    result: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Result file of evaluate --out: its numbers, with intervals, go on the page.",
        ),
    ] = None,
    replace: Replace = False,
    public: Annotated[
        bool, typer.Option("--public", help="If a repository is made for it, make that one public.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Share a probe.

    Sends its card and weights, a page about it (README.md: use, data, numbers, limits), and a
    manifest of SHA-256 hashes. No text of the training data is in any of them, but the names of
    labels and of the data file are.
    """
    from pillion.runtime import resolve
    from pillion.sharing import push as send

    numbers = None if result is None else _read(result)
    done = send(resolve(probe), url, numbers, replace, public)
    if as_json:
        return print_json({"url": done.url, "sha256": done.sha256, "bytes": done.num_bytes})
    out.print(f"Pushed to {done.url}, {done.num_bytes / 1e6:.1f} MB, SHA-256 {done.sha256}")
    out.print(f"Next: pillion pull {shlex.quote(url)} DIR --sha256 {done.sha256}")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--result {path} cannot be read ({error}); give what evaluate --out wrote."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"--result {path} is no result file; give what evaluate --out wrote.")
    return found
