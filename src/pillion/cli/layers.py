"""Layers as people type them: `0-15`, `0,4,8` or both."""

from __future__ import annotations

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
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ConfigError(f"--layers has {part!r}; write numbers and ranges, such as 0-15,30.")
        found.update(range(int(first), int(last or first) + 1))
    if not found or max(found) > num_layers:
        raise ConfigError(f"--layers is {text!r}; this model has layers 0 to {num_layers}.")
    return tuple(sorted(found))
