"""Bytes of a text file as characters.

Promises the very characters, or a DataError with the place of the first byte that is none. What is
guessed is said.
"""

from __future__ import annotations

import codecs
import re

from pillion.errors import ConfigError, DataError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""What files begin with, and the encoding that it says; longer marks first."""

GUESS = "cp1252"
"""What spreadsheets write in Western Europe and America."""

# Letters, quotes and dashes of Western languages; not 0xFF, the byte of broken files.
_WESTERN = re.compile(rb"[\x80\x85\x91-\x97\xa0\xa1\xa3\xa7\xab\xb0\xb4\xba\xbb\xbf-\xfe]")
_UTF8_PAIR = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
_LONGEST_RUN = re.compile(rb"[\x80-\xff]{3}")


def decode(
    data: bytes, source: str, encoding: str | None, may_guess: bool = True
) -> tuple[str, str]:
    """The characters, and a note where the encoding was guessed (empty if not).

    Args:
        data: of the file.
        source: what errors call it.
        encoding: a name that Python knows; None for what a mark at the beginning says, else UTF-8,
            else a guess where little speaks against it.
        may_guess: whether files of this kind are written in other encodings at all.

    Raises:
        ConfigError: an unknown encoding.
        DataError: bytes that are no characters in it.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is not None:
        return _decoded(data, source, _known(encoding, marked)), ""
    try:
        text = data.decode(marked or "utf-8")
    except UnicodeDecodeError:
        if not (may_guess and marked is None and _is_western(data)):
            _decoded(data, source, marked or "utf-8")
        text = _decoded(data, source, GUESS)
        return text, (
            f"{source} is no UTF-8 and is read as {GUESS} (Western Europe); name its encoding "
            "if that is wrong."
        )
    note = f"{source} is read as {marked}, as its first bytes say." if _is_wide(marked) else ""
    return text, note


def _is_wide(marked: str | None) -> bool:
    return marked is not None and not marked.startswith("utf-8")


def _known(encoding: str, marked: str | None) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"The encoding {encoding!r} is unknown; give one that Python knows, such as utf-8, "
            "cp1252 or shift_jis."
        ) from error
    # The mark is no part of the first column's name, whether or not it was asked for.
    return "utf-8-sig" if name == "utf-8" and marked == "utf-8-sig" else name


def _decoded(data: bytes, source: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        # Some codecs count from behind the mark.
        start = getattr(error, "start", 0)
        offset = start + len(data) - len(getattr(error, "object", data))
        line = data.count(b"\n", 0, offset) + 1
        name = "UTF-8" if encoding.startswith("utf-8") else encoding
        raise DataError(
            f"{source} is not valid {name} at line {line} (byte offset {offset}); save it as "
            "UTF-8, or name its encoding."
        ) from None


def _is_western(data: bytes) -> bool:
    """Whether the bytes beyond ASCII look like letters and quotes among Western words.

    A few of them, each among ASCII, none of them a piece of UTF-8: other scripts write long runs.
    """
    others = [byte for byte in data if byte > 127]
    plain = all(_WESTERN.match(bytes([byte])) for byte in set(others))
    return (
        plain
        and len(others) <= len(data) // 4
        and not _UTF8_PAIR.search(data)
        and not _LONGEST_RUN.search(data)
        and b"\0" not in data
    )
