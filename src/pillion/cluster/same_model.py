"""Whether workers run the model that they are meant to run."""

from __future__ import annotations

from dataclasses import replace

from pillion.core import ModelIdentity
from pillion.errors import MismatchError


def check_same(wanted: ModelIdentity, got: ModelIdentity) -> None:
    """Returns if two models give the same states; their names do not matter.

    Raises:
        MismatchError: naming what differs.
    """
    if replace(got, name=wanted.name) == wanted:
        return
    differing = [
        field
        for field, value in vars(wanted).items()
        if field != "name" and vars(got)[field] != value
    ]
    raise MismatchError(
        f"Workers run different models under the name {wanted.name!r} ({', '.join(differing)} "
        "differ); put the same files on every node, or give a folder that all nodes share."
    )
