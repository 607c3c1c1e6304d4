"""Which cached prefixes a request may begin with: those of requests with the same salt.

transformers shares a page among all requests that begin with the same tokens, and tells the length
of what was shared: a client could guess another's prompt page by page. Here the hash of a first
page begins with the request's salt, and all that follow build on it. Knows no keys and no HTTP.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from transformers.generation.continuous_batching.cache_allocators.cache_allocator import (
    compute_block_hash,
)


def salt_prefixes(cache: Any, salt_of: Callable[[str], str]) -> None:
    """Makes a paged cache share pages only where salts are the same.

    Args:
        cache: of transformers' continuous batching.
        salt_of: a request's salt; requests without one have the empty salt.
    """
    find, current = cache.search_prefix_match, _Root()

    def search(request_id: str, prompt_ids: list[int]) -> int:
        current.hash = _root(salt_of(request_id))
        return find(request_id, prompt_ids)

    cache.search_prefix_match = search
    for allocator in cache.cache_allocators.values():
        _salt(allocator, current, salt_of)


class _Root:
    """What the hash of a first page begins with, for the request that is looked up now."""

    hash: int | None = None


def _root(salt: str) -> int | None:
    if not salt:
        return None
    digest = hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _salt(allocator: Any, current: _Root, salt_of: Callable[[str], str]) -> None:
    ledger, size = allocator.ledger, allocator.tokens_per_page

    def match(prompt_ids: Sequence[int]) -> list[int]:
        found, parent = list[int](), current.hash
        for begin in range(0, len(prompt_ids) - size, size):  # one token at least is left to read
            parent = compute_block_hash(parent, list(prompt_ids[begin : begin + size]))
            page = ledger.hash_to_block.get(parent)
            if page is None:
                break
            found.append(page)
        return found

    def mark(request_id: str, token_ids: Sequence[int], new_blocks: int) -> None:
        """As in transformers: a page whose content is there already is given up for that one."""
        table, parent = allocator.block_table[request_id], _root(salt_of(request_id))
        for place, page in enumerate(table):
            known = ledger.block_to_hash.get(page)
            if known is None:
                tokens = list(token_ids[place * size : (place + 1) * size])
                if new_blocks == 0 or len(tokens) < size:
                    return
                new_blocks -= 1
                known = compute_block_hash(parent, tokens)
                _register(allocator, table, place, known)
            parent = known

    allocator.match_prefix_blocks, allocator.mark_complete_blocks = match, mark


def _register(allocator: Any, table: list[int], place: int, hash: int) -> None:
    page = table[place]
    same = allocator.ledger.register_new_hash(page, hash)
    if same is None:
        return
    allocator.ledger.acquire(same)
    table[place] = same
    if allocator.ledger.release(page):
        allocator.pool.free_blocks(allocator.index, [page])
