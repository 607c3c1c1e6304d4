"""What the process does with memory that it no longer needs."""

from __future__ import annotations

import ctypes
import sys

# Names and limits of `mallopt` (glibc's malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_BLOCK = 1 << 30, 32 << 20


def keep_freed_memory() -> bool:
    """Lets glibc keep up to 1 GiB of freed memory instead of giving it back after every tensor.

    A forward pass frees its activations layer by layer. Given back, they come back page by page,
    each page zeroed by the kernel: a tenth of the time of a pass on a processor (`docs/log.md`).

    Returns:
        Whether it could be set; other C libraries have no such switch.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    sizes = {_M_TRIM_THRESHOLD: _KEPT_BYTES, _M_MMAP_THRESHOLD: _LARGEST_BLOCK}
    return all(set_option(option, size) for option, size in sizes.items())
