"""`pillion pull`: a probe from a hub or a file system elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.options import Json
from pillion.cli.push import Place, Replace


@app.command()
def pull(
    url: Place,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the probe.")],
    sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", help="Take no probe but that of this hash, which push printed."
        ),
    ] = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Fetch a shared probe into a folder.

    Every file is compared with the manifest's SHA-256. The folder is whole, or not there.
    """
    from pillion.sharing import pull as fetch

    done = fetch(url, folder, replace, sha256)
    if as_json:
        told = {"url": done.url, "out": str(folder), "sha256": done.sha256}
        return print_json(told | {"bytes": done.num_bytes})
    out.print(f"Pulled into {folder}, {done.num_bytes / 1e6:.1f} MB, SHA-256 {done.sha256}")
    out.print(f"Next: pillion inspect {shlex.quote(str(folder))}")
