"""What is wrong with a mapping that a person wrote, as a sentence."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError

from pillion.errors import ConfigError, unknown_name


def fault_of(error: ValidationError, place: str, key: str, known: Collection[str]) -> ConfigError:
    """The first fault of a mapping, as a sentence.

    Args:
        error: of its validation.
        place: where the mapping stands.
        key: what one of its keys is called.
        known: its keys.
    """
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return unknown_name(key, where, known)
    return ConfigError(f"{'.'.join(filter(None, (place, where)))}: {first['msg']}.")
