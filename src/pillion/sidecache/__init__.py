"""The probes' own little KV cache: what they keep of tokens, beside the pages of an engine's cache.

Knows probes and their folds, requests, pages and chunks; knows no engine.
"""

from pillion.sidecache.folds import Folds
from pillion.sidecache.lanes import Due, Going, Lane, Numbers, Probs
from pillion.sidecache.paged_group import PagedGroup
from pillion.sidecache.pages import page_numbers
from pillion.sidecache.script import Script
from pillion.sidecache.side_cache import Heard, SideCache
from pillion.sidecache.upload import upload

__all__ = [
    "Due",
    "Folds",
    "Going",
    "Heard",
    "Lane",
    "Numbers",
    "PagedGroup",
    "Probs",
    "Script",
    "SideCache",
    "page_numbers",
    "upload",
]
