"""Which passes go on with a prompt that `generate` runs in chunks (`prefill_chunk_size`).

A chunk of one token looks like the first token of the answer, and only the code that cuts the
prompt can tell. Knows no probe.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import Any

from pillion.backends.shared_use import SharedUse

METHOD = "_prefill"
"""With which a model's `generate` runs a prompt (transformers 5.23)."""


class Prefill:
    """Follows a model's own prefill for as long as the model has a watcher.

    Args:
        owner: the module that generates; held weakly, as it is kept there. None if none does.
    """

    def __init__(self, owner: Any = None) -> None:
        self._owner = (lambda: None) if owner is None else weakref.ref(owner)
        self._following = SharedUse(self._followed)
        # Thread -> positions in the KV cache when its prompt began to run; None before that.
        self._begun: dict[int, int | None] = {}

    def goes_on(self, past_tokens: int) -> bool:
        """Whether the pass that begins in this thread is another chunk of the same prompt.

        Args:
            past_tokens: positions that its KV cache holds.
        """
        thread = threading.get_ident()
        if thread not in self._begun:
            return False
        first = self._begun[thread]
        if first is None:
            self._begun[thread] = first = past_tokens
        return past_tokens > first

    @contextmanager
    def followed(self) -> Generator[None]:
        """Inside, the model's prefill is known; leaves the model as it was."""
        owner = self._owner()  # kept while it is followed
        with nullcontext() if owner is None else self._following.held():
            yield

    @contextmanager
    def _followed(self) -> Generator[None]:
        owner = self._owner()
        vars(owner).setdefault(METHOD, self._run)
        try:
            yield
        finally:
            del vars(owner)[METHOD]

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        owner, thread = self._owner(), threading.get_ident()
        self._begun[thread] = None
        try:
            return getattr(type(owner), METHOD)(owner, *args, **kwargs)
        finally:
            del self._begun[thread]

    def __deepcopy__(self, memo: dict[int, Any]) -> Prefill:
        """A copy of the model runs its own prefill, which has no watcher yet."""
        return Prefill(memo[id(self._owner())])


_NONE = Prefill()
_PREFILLS: weakref.WeakKeyDictionary[object, Prefill] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def prefill_of(model: Any) -> Prefill:
    """The prefill of a model, or of that in a wrapper; one object a model."""
    owner = next((one for one in model.modules() if hasattr(type(one), METHOD)), None)
    if owner is None:
        return _NONE
    with _MAKING:
        return _PREFILLS.setdefault(owner, Prefill(owner))
