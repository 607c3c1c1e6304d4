"""The probes' own little KV cache: what they keep of tokens, beside the pages of an engine's cache.

Knows probes and their folds, requests, pages and chunks; knows no engine.
"""

from pillion.sidecache.folds import Folds
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.pages import page_numbers
from pillion.sidecache.side_cache import GroupReadout, SideCache
from pillion.sidecache.tracked import DecodeBatch, Numbers, PendingReadouts, Probs, TrackedRequest
from pillion.sidecache.turn_map import TurnMap
from pillion.sidecache.upload import upload

__all__ = [
    "DecodeBatch",
    "Folds",
    "GroupReadout",
    "Numbers",
    "PagedGroup",
    "PendingReadouts",
    "Probs",
    "SideCache",
    "TrackedRequest",
    "TurnMap",
    "page_numbers",
    "upload",
]
