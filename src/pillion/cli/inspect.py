"""`pillion inspect`: the card of a saved probe."""

from __future__ import annotations

from typing import Annotated

import typer

from pillion.cli.app import app, out, print_json
from pillion.cli.options import Json


@app.command()
def inspect(
    probe: Annotated[str, typer.Argument(help="Folder of a trained probe.")], as_json: Json = False
) -> None:
    """Show the card of a probe.

    What it is, what it was trained on, how well it did, which model it belongs to.
    """
    from pillion.runtime import resolve

    artefact = resolve(probe)
    card = artefact.card.model_dump(mode="json")
    if as_json:
        return print_json(card)
    card["parameters"] = artefact.network.num_parameters
    del card["tensors"]
    card["canaries"] = len(artefact.card.canaries.texts) if artefact.card.canaries else None
    for name, value in card.items():
        if isinstance(value, dict):
            out.print(f"{name}:")
            for key, inner in value.items():
                if key == "notes":
                    _show_notes(inner)
                else:
                    out.print(f"  {key:<18} {inner}")
        else:
            out.print(f"{name:<20} {value}")


def _show_notes(notes: list[str]) -> None:
    """A line each: they are sentences."""
    out.print(f"  {'notes':<18} {'' if notes else 'none'}".rstrip())
    for note in notes:
        out.print(f"    - {note}")
