"""The watchers of a model, and which passes each of them is shown.

One model may be used by many threads: it serves one pass at a time, and a watcher is shown the
passes of the thread that began to watch, and no others. Knows neither states nor their use.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pillion.backends.base import Step, Watcher
from pillion.backends.routers import in_order
from pillion.backends.shared_use import SharedUse
from pillion.core.arithmetic import as_given
from pillion.errors import StateError


def runner() -> object:
    """The thread, or the task of an event loop, that runs this code."""
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:
        return threading.current_thread()


class Passes:
    """What all users of one model share.

    Attributes:
        lock: held by a pass, and while hooks are added or removed.
        watched: the present watchers.
        counted: positions that were seen to go into each KV cache.
        quiet: a thread that tries the model: no watcher is shown its passes.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.watched: list[Watched] = []
        self.quiet: int | None = None
        self.counted: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def mine(self) -> list[Watched]:
        """The watchers of a pass that begins here without a KV cache."""
        return [one for one in self.watched if one.sees(None)]


_PASSES: weakref.WeakKeyDictionary[object, Passes] = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def passes_of(model: object) -> Passes:
    """The passes of a model: one object a model."""
    with _MAKING:
        return _PASSES.setdefault(model, Passes())


_UNCOMPILED = SharedUse(lambda: torch.compiler.set_stance("force_eager"))


def uncompiled() -> AbstractContextManager[None]:
    """Inside, compiled functions run as they are written.

    What torch.compile has made of a model leaves out hooks that came later, and may be taken for
    another model of the class: passes would not be seen, without an error.
    """
    return _UNCOMPILED.held()


class Watched:
    """A watcher and which passes it is shown.

    Its own: those of the thread (and task) that began to watch, and, in any thread, those that
    go on from a KV cache of its own: a stream may be taken by another thread than began it.

    Args:
        watcher: the watcher.
        top: so many blocks have to run for all that it is shown.
        routers: layers among them that are routers.
    """

    def __init__(self, watcher: Watcher, top: int, routers: Sequence[int] = ()) -> None:
        self.watcher, self.top, self._routers = watcher, top, routers
        self._routed: dict[int, Tensor] = {}
        self._owner = runner()
        self._follower = _CacheFollower(watcher)
        self._layer, self._tokens, self._shape = -1, 0, torch.Size()
        self._device = torch.device("cpu")
        self._thread: int | None = None  # that runs the pass which is being shown

    def sees(self, cache: object | None) -> bool:
        """Whether a pass that begins here and goes on from this cache is one of its own."""
        return self._owner is runner() or (cache is not None and self._follower.has(cache))

    @property
    def passing(self) -> bool:
        """Whether this thread runs a pass that it is shown."""
        return self._thread == threading.get_ident()

    def start(self, cache: object | None, step: Callable[[], Step]) -> None:
        """A pass begins.

        Raises:
            StateError: it is shown one that another thread runs.
        """
        if not self.sees(cache):
            return
        if self._thread is not None and not self.passing:
            raise StateError(
                "Two threads run the model for one reading, whose rows would mix; attach the "
                "probes in each thread by itself."
            )
        self._thread = threading.get_ident()
        self._routed = {}
        now = step()
        self._layer, self._shape, self._tokens = (
            -1,
            now.mask.shape,
            now.past_tokens + now.mask.shape[1],
        )
        self._device = now.mask.device
        self.watcher.start(now)

    def see(self, layer: int, hidden: Any) -> None:
        """What a block takes or gives.

        Args:
            layer: after so many blocks.
            hidden: the states, alone or first among others.

        Raises:
            StateError: the model has no single state a token there.
        """
        if layer <= self._layer:
            raise StateError(
                "This model runs its blocks more than once in a pass, so that a layer has no "
                "single state a token; probes read models that run each block once."
            )
        self._layer = layer
        states = hidden[0] if isinstance(hidden, tuple | list) else hidden
        if states.ndim != 3 or states.shape[:2] != self._shape:
            raise StateError(
                f"Layer {layer} of this model has states of shape {list(states.shape)} for "
                f"{list(self._shape)} tokens; probes read models with one state a token and layer."
            )
        with as_given(states.device):
            self.watcher.see(layer, states)

    def shrink(self, num_rows: int) -> None:
        """So many rows of the batch are left in the pass that it is shown."""
        self._shape = torch.Size((num_rows, *self._shape[1:]))

    def see_router(self, layer: int, state: Callable[[torch.Size], Tensor]) -> None:
        """What a router gives; it is shown behind the last layer, for layers come in their order.

        Args:
            layer: that it is read as.
            state: its logits as states, for so many rows and tokens.

        Raises:
            StateError: it has given something in this pass already.
        """
        if layer in self._routed:
            raise StateError(
                "This model runs its routers more than once in a pass, so that there is no single "
                "set of logits a token; use a probe that reads no routers."
            )
        self._routed[layer] = state(self._shape)

    def end(self, cache: object | None, passes: Passes) -> None:
        """A pass that it was shown is over: shows what routers gave, and that no more comes.

        Args:
            cache: that holds the tokens of the pass; None where none does.
            passes: of the model.

        Raises:
            StateError: a router that is read gave nothing.
        """
        self._thread = None
        with as_given(self._device):
            for layer, state in in_order(self._routers, self._routed):
                self.watcher.see(layer, state)
            self._routed = {}
            self.watcher.end(cache)
        if cache is not None:
            passes.counted[cache] = self._tokens
            self._follower.follow(cache)

    def fail(self) -> None:
        """A pass has ended before its end."""
        if self.passing:
            self._thread = None

    def release(self) -> None:
        """Nothing more is shown."""
        self._follower.release()


class _CacheFollower:
    """Tells the watcher when beam search moves the rows of a KV cache.

    The engine moves them between passes, where no hook sees it: the cache's own methods are wrapped
    for as long as a watcher watches it.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self._followed: weakref.WeakSet[Any] = weakref.WeakSet()

    def has(self, cache: object) -> bool:
        """Whether it follows this cache."""
        return cache in self._followed

    def follow(self, cache: Any) -> None:
        """Wraps the methods of a cache that is not followed yet."""
        if cache in self._followed:
            return
        self._followed.add(cache)
        for name in _moves(cache):
            vars(cache).setdefault(name, _Move(cache, name)).watchers.append(self.watcher)

    def release(self) -> None:
        """Gives every cache that has no other watcher its own methods back."""
        for cache in self._followed:
            for name in _moves(cache):
                move = vars(cache)[name]
                move.watchers.remove(self.watcher)
                if not move.watchers:
                    delattr(cache, name)


def _moves(cache: Any) -> list[str]:
    return [n for n in ("reorder_cache", "batch_select_indices") if hasattr(type(cache), n)]


class _Move:
    """A method of a cache that tells watchers first; holds the cache weakly, as it is kept there.

    A copy of the cache gets a copy of its own, which has no watcher yet.
    """

    def __init__(self, cache: Any, name: str) -> None:
        self.cache, self.name = weakref.ref(cache), name
        self.watchers: list[Watcher] = []

    def __call__(self, rows: Int[Tensor, " row"]) -> Any:
        cache = self.cache()
        for watcher in self.watchers:
            watcher.move(cache, rows)
        return getattr(type(cache), self.name)(cache, rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Move:
        return _Move(memo[id(self.cache())], self.name)
