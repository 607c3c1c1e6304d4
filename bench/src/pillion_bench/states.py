"""The hidden states of a data set: extracted once, shared by every method.

Promises that states lie on disk whole or are finished by the next run, that nothing is extracted
before a method asks for it, and that rows whose states are not kept pass through the model once for
all that reads every token of them. Does not know what the states are used for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pillion.backends import Backend
from pillion.cache import CacheReader
from pillion.core import Scope, Template
from pillion.errors import ConfigError, DataError
from pillion.extract import (
    CachedSource,
    LiveSource,
    Pool,
    Progress,
    SelectedRows,
    StateSource,
    encode_rows,
    kept_states,
    pooled_source,
    silent,
)
from pillion_bench.gather import Gathering
from pillion_bench.problem import Part, PartName, Problem


class States:
    """States of one problem out of one model; a context manager that closes what it opened.

    Args:
        backend: the model.
        problem: whose texts.
        folder: where states are kept, `train`, `validation` and `test` below it, or those names
            with the scope.
        progress: told of every batch.
        say: told how large states are before any is written.
        live: stores whose states are not kept: each pass over them pools them, too.
        by_scope: whether the states of a scope have folders of their own.

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
        live: Collection[PartName] = (),
        by_scope: bool = True,
    ) -> None:
        self.backend, self.problem, self.folder = backend, problem, folder
        self.progress, self.say = progress, say
        self._live, self._by_scope = live, by_scope
        last = backend.identity.num_layers
        self.layers = problem.spec.layers or tuple(range(last + 1))
        if not set(self.layers) <= set(range(last + 1)):
            raise ConfigError(
                f"Data set {problem.name!r} names layers {self.layers}; the model has 0 to {last}."
            )
        self._opened = ExitStack()
        self._sources: dict[tuple[PartName, tuple[int, ...]], StateSource] = {}
        self._tokens: dict[tuple[PartName, Template], Sequence[Sequence[int]]] = {}
        self._pooled: tuple[Pool, dict[Part, np.ndarray]] | None = None
        self._last: dict[tuple[Part, Template], Tensor] = {}

    def __enter__(self) -> States:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def of(self, problem: Problem) -> States:
        """The same states for other parts of the same stores; what is opened stays with these."""
        view = copy.copy(self)
        view.problem, view._last = problem, {}
        if self._pooled is not None:
            how, known = self._pooled
            view._pooled = how, {part: known[part] for part in problem.parts if part in known}
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
            self._sources[at] = self._opened_source(part.store, wanted)
        return SelectedRows(self._sources[at], part.row_ids)

    def pooled(self, part: Part, how: Pool) -> Float[np.ndarray, "row layer dim"]:
        """Each row's pooled state a layer; one kind is kept in memory at a time.

        In fp32, but `mean-rms` in fp16, whose numbers are about one.
        """
        if self._pooled is None or self._pooled[0] != how:
            self._pooled = (how, {})
        kept = self._pooled[1]
        if part not in kept:
            source = self.source(part)
            gathered = self._gathered(part)
            if gathered is not None and how == "mean-rms":
                found = gathered.means(part.row_ids, self.progress)
            else:
                found = pooled_source(source, how, self.progress).transpose(0, 1).contiguous()
            kept[part] = (found.half() if how == "mean-rms" else found).numpy()
        return kept[part]

    def _gathered(self, part: Part) -> Gathering | None:
        """What was pooled of a live store's rows; None where they are kept."""
        source = self._sources.get((part.store, self.layers))
        return source if isinstance(source, Gathering) else None

    def last_states(self, part: Part, template: Template | None = None) -> Float[Tensor, "row dim"]:
        """The last token's state of the last layer: what the first answered token comes from.

        Args:
            part: the rows.
            template: another than the data set's costs a pass of its own.
        """
        own = self.problem.spec.template
        at = (part, template or own)
        if at not in self._last:
            last = (self.backend.identity.num_layers,)
            reads_whole = self.problem.spec.scope == "all" and self.layers[-1:] == last
            gathered = self._gathered(part)
            if at[1] != own:
                source = LiveSource(self.backend, self.tokens(part, at[1]), last)
                self._last[at] = pooled_source(source, "last", self.progress)[0]
            elif gathered is not None and reads_whole:
                self._last[at] = gathered.last(part.row_ids, self.progress)
            else:
                source = self.every_token(part, last)
                self._last[at] = pooled_source(source, "last", self.progress)[0]
        return self._last[at]

    def every_token(self, part: Part, layers: Sequence[int]) -> StateSource:
        """The states of all tokens, whatever the scope; live where they are not kept."""
        if self.problem.spec.scope == "all" and set(layers) <= set(self.layers):
            return self.source(part, layers)
        return LiveSource(self.backend, self.tokens(part), layers)

    def _kept_in(self, store: PartName) -> Path:
        scope = self.problem.spec.scope
        own = self._by_scope and scope != "all"
        return self.folder / (f"{store}-{scope}" if own else store)

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
                raise DataError(f"{self.problem.where(store)}: {error}") from error
        return self._tokens[at]

    def _opened_source(self, store: PartName, layers: tuple[int, ...]) -> StateSource:
        spec = self.problem.spec
        tokens = self._store_tokens(store, spec.template)
        if store in self._live:
            live = LiveSource(self.backend, tokens, layers, spec.scope)
            return Gathering(live) if layers == self.layers else live
        if (store, self.layers) not in self._sources:
            source = kept_states(
                self.backend,
                tokens,
                self.layers,
                self._kept_in(store),
                spec.template,
                spec.on_too_long,
                self.progress,
                lambda sentence: self.say(f"{self.problem.where(store)}: {sentence}"),
                spec.scope,
            )
            self._opened.enter_context(source.reader)
            self._sources[store, self.layers] = source
        if layers == self.layers:
            return self._sources[store, layers]
        own = isinstance(self._sources[store, self.layers], CachedSource)
        assert own, "a folder of all tokens' states is read whole"
        reader = CacheReader(self._kept_in(store), layers)
        return CachedSource(self._opened.enter_context(reader))
