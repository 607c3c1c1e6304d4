"""Layers as people type them: `0-15`, `0,4,8` or both."""

from __future__ import annotations

import re

from pillion.errors import ConfigError


def parse_layers(text: str | None, num_layers: int) -> tuple[int, ...] | None:
    """The layers that a text means, ascending; None for none given (all).

    Args:
        text: such as `0-15,30`.
        num_layers: of the model; its last layer's number.

    Raises:
        ConfigError: for what is not a number, or a layer that the model does not have.
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        numbers = re.fullmatch(r"\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?\s*", part)
        if numbers is None:
            raise ConfigError(f"--layers has {part!r}; write numbers and ranges, such as 0-15,30.")
        first, last = int(numbers[1]), int(numbers[2] or numbers[1])
        if last < first:
            raise ConfigError(f"--layers has {part!r}; write a range from low to high.")
        if last > num_layers:
            raise ConfigError(f"--layers has {part!r}; this model has layers 0 to {num_layers}.")
        found.update(range(first, last + 1))
    return tuple(sorted(found))
