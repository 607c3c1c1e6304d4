"""The hidden states of a data set: extracted once, shared by every method.

Promises that states lie on disk whole or are finished by the next run, and that nothing is
extracted before a method asks for it. Does not know what the states are used for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pillion.backends import Backend
from pillion.cache import CacheReader
from pillion.core import Scope, Template
from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError, DataError
from pillion.extract import (
    CachedSource,
    LiveSource,
    Progress,
    SelectedRows,
    StateSource,
    encode_rows,
    kept_states,
    silent,
)
from pillion_bench.problem import Part, PartName, Problem

Pooling = Literal["mean", "last"]
POOLING_TOKENS = 4096


class States:
    """States of one problem out of one model; a context manager that closes what it opened.

    Args:
        backend: the model.
        problem: whose texts.
        folder: where states are kept, `train`, `validation` and `test` below it, or those names
            with the scope.
        progress: told of every batch.
        say: told how large states are before any is written.

    Attributes:
        backend: the model.
        layers: those that are kept.
    """

    def __init__(
        self,
        backend: Backend,
        problem: Problem,
        folder: Path,
        progress: Progress = silent,
        say: Callable[[str], object] = print,
    ) -> None:
        self.backend, self.problem, self.folder = backend, problem, folder
        self.progress, self.say = progress, say
        last = backend.identity.num_layers
        self.layers = problem.spec.layers or tuple(range(last + 1))
        if not set(self.layers) <= set(range(last + 1)):
            raise ConfigError(
                f"Data set {problem.name!r} names layers {self.layers}; the model has 0 to {last}."
            )
        self._opened = ExitStack()
        self._sources: dict[tuple[PartName, tuple[int, ...]], CachedSource] = {}
        self._tokens: dict[tuple[PartName, Template], Sequence[Sequence[int]]] = {}
        self._pooled: tuple[Pooling, dict[PartName, np.ndarray]] | None = None
        self._last: dict[tuple[PartName, Template], Tensor] = {}

    def __enter__(self) -> States:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def of(self, problem: Problem) -> States:
        """The same states for other parts of the same stores; what is opened stays with these."""
        view = copy.copy(self)
        view.problem, view._pooled, view._last = problem, None, {}
        return view

    def tokens(self, part: Part, template: Template | None = None) -> Sequence[Sequence[int]]:
        """Token ids of every row, wrapped by the data set's template or another one."""
        stored = self._store_tokens(part.store, template or self.problem.spec.template)
        return [stored[row] for row in part.row_ids]

    def source(self, part: Part, layers: Sequence[int] | None = None) -> StateSource:
        """The states of some rows, of all kept layers or some; extracted where they are missing.

        Raises:
            ConfigError: layers that the data set does not keep.
            StorageError: no room, or states of something else lie there.
        """
        wanted = self.layers if layers is None else tuple(layers)
        if not set(wanted) <= set(self.layers):
            raise ConfigError(
                f"Layers {wanted} were asked for, but data set {self.problem.name!r} keeps "
                f"{self.layers}; name some of these, or add them to its layers."
            )
        at = (part.store, wanted)
        if at not in self._sources:
            self._extract(part.store)
            reader = CacheReader(self._kept_in(part.store), wanted)
            self._sources[at] = CachedSource(self._opened.enter_context(reader))
        return SelectedRows(self._sources[at], part.row_ids)

    def pooled(self, part: Part, how: Pooling) -> Float[np.ndarray, "row layer dim"]:
        """Each row's mean or last state a layer, in fp32; one kind is kept in memory at a time."""
        if self._pooled is None or self._pooled[0] != how:
            self._pooled = (how, {})
        kept = self._pooled[1]
        if part.name not in kept:
            kept[part.name] = pooled(self.source(part), how, self.progress)
        return kept[part.name]

    def last_states(self, part: Part, template: Template | None = None) -> Float[Tensor, "row dim"]:
        """The last token's state of the last layer: what the first answered token comes from.

        Args:
            part: the rows.
            template: another than the data set's costs a pass of its own.
        """
        own = self.problem.spec.template
        at = (part.name, template or own)
        if at not in self._last:
            last = (self.backend.identity.num_layers,)
            if at[1] == own:
                source = self.every_token(part, last)
            else:
                source = LiveSource(self.backend, self.tokens(part, at[1]), last)
            found = pooled(source, "last", self.progress)
            self._last[at] = torch.from_numpy(found[:, 0])
        return self._last[at]

    def every_token(self, part: Part, layers: Sequence[int]) -> StateSource:
        """The states of all tokens, whatever the scope; live where they are not kept."""
        if self.problem.spec.scope == "all" and set(layers) <= set(self.layers):
            return self.source(part, layers)
        return LiveSource(self.backend, self.tokens(part), layers)

    def _kept_in(self, store: PartName) -> Path:
        scope = self.problem.spec.scope
        return self.folder / (store if scope == "all" else f"{store}-{scope}")

    def _store_tokens(self, store: PartName, template: Template) -> Sequence[Sequence[int]]:
        at = (store, template)
        if at not in self._tokens:
            texts, spec = self.problem.stores[store], self.problem.spec
            # Another template than the data set's shows a model the texts in its own way.
            scopes: list[Scope] = [spec.scope] if template == spec.template else []
            try:
                self._tokens[at] = encode_rows(
                    self.backend, texts, template, spec.on_too_long, scopes=scopes
                )
            except DataError as error:
                raise DataError(f"{self.problem.name}, {store}: {error}") from error
        return self._tokens[at]

    def _extract(self, store: PartName) -> None:
        spec = self.problem.spec
        tokens = self._store_tokens(store, spec.template)
        source = kept_states(
            self.backend,
            tokens,
            self.layers,
            self._kept_in(store),
            spec.template,
            spec.on_too_long,
            self.progress,
            lambda sentence: self.say(f"{self.problem.name} {store}: {sentence}"),
            spec.scope,
        )
        source.reader.close()


def pooled(
    source: StateSource, how: Pooling, progress: Progress = silent
) -> Float[np.ndarray, "row layer dim"]:
    """Each row's mean or last state a layer, in fp32."""
    found = np.empty((len(source.lengths), len(source.layers), source.dim), dtype=np.float32)
    done, total = 0, sum(source.lengths)
    for row_ids in batches_by_length(source.lengths, POOLING_TOKENS):
        hidden, mask = source.read_batch(row_ids)
        found[row_ids] = _pool(hidden, mask, how).transpose(0, 1).numpy()
        done += int(mask.sum())
        progress("pool", done, total)
    return found


def _pool(
    hidden: Float[Tensor, "layer batch token dim"], mask: Bool[Tensor, "batch token"], how: Pooling
) -> Float[Tensor, "layer batch dim"]:
    lengths = mask.sum(1)
    if how == "last":
        return hidden[:, torch.arange(len(lengths)), lengths - 1].float()
    # A layer at a time: the fp32 copy of all of them would be the largest thing in memory.
    seen = mask[..., None].float()
    return torch.stack([(layer.float() * seen).sum(1) / lengths[:, None] for layer in hidden])
