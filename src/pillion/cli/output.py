"""What verbs print and write: texts that can be encoded, files that are whole or not there."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pillion.core.files import replacing
from pillion.errors import DataError


def check_text(text: str, option: str) -> str:
    """The text, if it can be encoded.

    Raises:
        DataError: bytes of the command line that are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{option} is not valid UTF-8 at character {error.start + 1}; give it as UTF-8."
        ) from None
    return text


def write_lines(lines: Iterable[str], path: Path | None) -> None:
    """Prints lines, or writes them to a file that is whole or not there at all.

    Raises:
        StorageError: if the file cannot be written; what was there before stays.
    """
    ended = (f"{line}\n" for line in lines)
    if path is None:
        sys.stdout.writelines(ended)
        return
    with (
        replacing(path, "choose another --out") as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        file.writelines(ended)


def number(value: float | None, metric: str) -> str:
    """A metric with three digits, or why it is undefined."""
    from pillion.metrics.classification import WHY_UNDEFINED

    if value is None:
        return f"undefined ({WHY_UNDEFINED.get(metric, 'the rows do not tell')})"
    return f"{value:.3f}"
