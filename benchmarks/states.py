"""States that several benchmarks keep on disk and read again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from pillion.backends import Backend
from pillion.cache import CacheReader, read_spec
from pillion.core import Template, Text
from pillion.extract import CachedSource, encode_rows, kept_states


def every_layer(backend: Backend, step: int) -> tuple[int, ...]:
    """Every so many-th layer of a model, from the embeddings on."""
    return tuple(range(0, backend.identity.num_layers + 1, step))


def kept_layers(
    backend: Backend,
    texts: Sequence[Text],
    template: Template,
    layers: Sequence[int],
    folder: Path,
    opened: ExitStack,
) -> CachedSource:
    """Some layers of the states of texts; a folder that keeps more of them serves, too.

    Args:
        backend: the model.
        texts: one a row.
        template: how the model is shown them.
        layers: that are read.
        folder: where the states are kept.
        opened: closes what was opened.

    Raises:
        StorageError: no room, or states of other texts lie there.
    """
    there = read_spec(folder)
    kept = layers if there is None else there.layers
    tokens = encode_rows(backend, texts, template)
    kept_states(backend, tokens, kept, folder, template, "error").reader.close()
    return CachedSource(opened.enter_context(CacheReader(folder, layers)))
