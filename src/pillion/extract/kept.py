"""The states of texts on disk, taken from there if an earlier run left them.

Promises that their size is said before any is written. Knows tokens and layers, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pillion.backends import Backend
from pillion.cache import read_spec
from pillion.core import OnTooLong, Scope, Template, as_tokens
from pillion.extract.fill import extract
from pillion.extract.identity import cache_key, cache_spec, size_sentence
from pillion.extract.progress import Progress, silent
from pillion.extract.scoped import ScopedRows
from pillion.extract.source import CachedSource


def kept_states(
    backend: Backend,
    tokens: Sequence[Sequence[int]],
    layers: Sequence[int],
    folder: Path,
    template: Template,
    on_too_long: OnTooLong,
    progress: Progress = silent,
    say: Callable[[str], object] = print,
    scope: Scope = "all",
) -> CachedSource | ScopedRows:
    """The rows' states on disk; what an earlier run left there is kept. The caller closes them.

    States of all tokens that lie there serve any scope.

    Args:
        backend: the model whose states.
        tokens: of every row.
        layers: to keep.
        folder: of the cache.
        template: what the texts were wrapped in, a part of what the cache is for.
        on_too_long: what was done with long texts, likewise.
        progress: told of every batch.
        say: told how large the states are before any is written.
        scope: whose tokens' states are wanted.

    Raises:
        StorageError: no room, or another cache lies there.
        Interrupted: by Ctrl-C; whole shards stay.
    """
    key = cache_key(backend.identity, template, on_too_long, tokens)
    if scope != "all" and read_spec(folder) == cache_spec(backend.identity, layers, key, tokens):
        reader = extract(backend, tokens, layers, folder, key, progress)
        whole = [as_tokens(row) for row in tokens]
        return ScopedRows(CachedSource(reader), whole, scope)
    say(size_sentence(cache_spec(backend.identity, layers, key, tokens, scope)))
    return CachedSource(extract(backend, tokens, layers, folder, key, progress, scope))
