"""Turns at a tokenizer: short texts never wait for long ones.

Tokenizers written in Rust change themselves while they encode ("Already borrowed"), so that each of
them does one thing at a time; long texts have a copy of their own. Knows no text.
"""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

LONG_CHARS = 8192
"""Texts of more characters are long: a few milliseconds of work."""


class _Turns:
    """What all users of one tokenizer share; does not hold the tokenizer itself."""

    def __init__(self) -> None:
        self.short, self.long = threading.Lock(), threading.Lock()
        self.copy: Any = None
        self.copies = True

    def copy_of(self, tokenizer: Any) -> Any:
        """The copy; None of a tokenizer that cannot be copied."""
        if self.copy is None and self.copies:
            with self.short:
                self.copy = _copied(tokenizer)
            self.copies = self.copy is not None
        return self.copy


_TURNS: weakref.WeakKeyDictionary[object, _Turns] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


@contextmanager
def taken(tokenizer: Any, num_chars: int) -> Generator[Any]:
    """A tokenizer that no other thread uses meanwhile: this one, or its copy for long texts.

    Args:
        tokenizer: of transformers; its users take turns.
        num_chars: of the text, or as many tokens.
    """
    with _MAKING:
        turns = _TURNS.setdefault(tokenizer, _Turns())
    if num_chars > LONG_CHARS:
        with turns.long:
            if (copied := turns.copy_of(tokenizer)) is not None:
                yield copied
                return
    with turns.short:
        yield tokenizer


def _copied(tokenizer: Any) -> Any:
    try:
        return copy.deepcopy(tokenizer)
    except Exception:  # tokenizers raises bare ones, for parts that are written in Python
        return None
