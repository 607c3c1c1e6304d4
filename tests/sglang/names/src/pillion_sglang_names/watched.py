"""What tests watch and change in SGLang's scheduler, which runs in a process of its own.

`PILLION_SGLANG_COUNTS` is a file that gets a line for each step: its kind and number of requests.
`PILLION_SGLANG_BLIND` makes probes pool the rows of a pass alone, without what came from the cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def register() -> None:
    """Entry point of the group `sglang.srt.plugins`."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if path := os.environ.get("PILLION_SGLANG_COUNTS"):

        def count(made: Any, *_: Any, **__: Any) -> None:
            with Path(path).open("a", encoding="utf-8") as counts:
                counts.write(f"{made.forward_mode.name} {made.batch_size}\n")

        target = "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new"
        HookRegistry.register(target, count, HookType.AFTER)
    if os.environ.get("PILLION_SGLANG_BLIND"):
        from pillion.sidecache import PagedGroup

        plain = PagedGroup.restart

        def rows_seen(self: PagedGroup, row: int, _: Any, turns: Any) -> bool:
            return plain(self, row, [], turns)

        PagedGroup.restart = rows_seen  # type: ignore[method-assign]
