"""Which passes go on with a prompt that `generate` runs in chunks (`prefill_chunk_size`).

A chunk of one token looks like the first token of the answer, and only the code that cuts the
prompt can tell. Knows no probe.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from pillion.backends.shared_use import FollowedMethods


class Prefill(FollowedMethods):
    """Follows a model's own prefill for as long as the model has a watcher."""

    # With which a model's `generate` runs a prompt (transformers 5.23).
    METHODS: ClassVar[Mapping[str, str]] = {"_prefill": "_run"}

    def __init__(self, owner: Any = None) -> None:
        super().__init__(owner)
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

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        thread = threading.get_ident()
        self._begun[thread] = None
        try:
            return self._call("_prefill", *args, **kwargs)
        finally:
            del self._begun[thread]
