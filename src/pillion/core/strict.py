"""Records that are strict about what they are given, and what is wrong with it as a sentence.

Does not know what the records are for. Not imported with `pillion.core`: pydantic takes its time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from pillion.errors import unknown_name

UNKNOWN = "extra_forbidden"
"""Pydantic's word for a key that is not known."""

_OF_UNIONS = {"str", "float", "constrained-str", "constrained-float"}
"""What pydantic calls the members of a union, in the place of a fault."""


class Strict(BaseModel):
    """A frozen record; an unknown key, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FieldFault(NamedTuple):
    """The first thing that is wrong with values.

    Attributes:
        kind: pydantic's word for it.
        path: the keys that lead to it; none for the values as a whole.
        message: what was wanted, without a full stop.
        value: what was got.
    """

    kind: str
    path: tuple[str, ...]
    message: str
    value: Any

    @property
    def field(self) -> str:
        """The first of the keys, a field of the record; empty for the record as a whole."""
        return self.path[0] if self.path else ""

    @property
    def place(self) -> str:
        """The keys that lead to it, with dots between them."""
        return ".".join(self.path)


def first_fault(error: ValidationError) -> FieldFault:
    """The fault to tell: an unknown key before all, as the one missing is often it, misspelt.

    Where a name or a number may stand, what is wrong with the number says more.
    """
    first = min(error.errors(), key=_rank)
    path = tuple(str(part) for part in first["loc"] if not _of_union(part))
    return FieldFault(
        first["type"], path, first["msg"].removeprefix("Value error, "), first["input"]
    )


def _rank(error: Any) -> tuple[bool, bool]:
    no_name = error["type"] == "string_type" and any(map(_of_union, error["loc"][-1:]))
    return error["type"] != UNKNOWN, no_name


def _of_union(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in _OF_UNIONS)


def sentence(
    error: ValidationError, where: str = "", key: str = "key", known: Collection[str] = ()
) -> str:
    """What is wrong with values, as a sentence.

    Args:
        error: of their validation.
        where: the place of the values, in front of a fault's own.
        key: what one of their keys is called.
        known: their keys.
    """
    fault = first_fault(error)
    if fault.kind == UNKNOWN:
        return str(unknown_name(key, fault.place, known))
    place = ".".join(filter(None, (where, fault.place)))
    return f"{place}: {fault.message}." if place else f"{fault.message}."
