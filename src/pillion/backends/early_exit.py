"""A pass that rows of its batch leave between two blocks, while the others go on.

What blocks are given beside their states (masks, places, rotations) is cut to the rows that stay.
Which of it holds rows differs from architecture to architecture and is written nowhere, so it is
seen: batches of two sizes run, and a pass that rows leave is compared with one that they do not.
Knows no probes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from pillion.backends.base import Backend, EarlyExitWatcher, Step
from pillion.backends.watching import Watched
from pillion.errors import StateError

Path = tuple[str | int, ...]
"""Where a tensor stands among a block's arguments: place or name, then places inside."""
RowDims = Mapping[Path, int | None]
"""Which dimension of an argument holds rows; None where all rows share it."""

SIZES, LEAVING_ROWS = (2, 3), 5
"""Rows of the batches whose arguments are compared, and of the one that rows leave."""
TOKENS = 7
"""Of the longest row."""
ROUNDING, COARSE = 1e-3, 0.1
"""Relative error of a token's state in fp32, and of three quarters of them in a narrower dtype."""


class AllExited(Exception):
    """No row is left that wants the blocks above."""


@dataclass
class ActiveRows:
    """The rows of a pass that have not left it.

    Attributes:
        num_rows: that the pass began with.
        kept: those that are left, by their places at the beginning; None for all.
        cut: what was cut to them already, by the identity of what it was cut from.
    """

    num_rows: int
    kept: Int[Tensor, " row"] | None = None
    cut: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict[int, tuple[Tensor, Tensor]])

    def leave(self, staying: Int[Tensor, " row"]) -> None:
        """Some of those that were left go on."""
        self.kept, self.cut = staying if self.kept is None else self.kept[staying], {}

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """The part of an argument that belongs to them.

        Raises:
            StateError: it has neither a row for each at the beginning nor one for all.
        """
        assert self.kept is not None
        if tensor.shape[dim] == 1:
            return tensor
        if tensor.shape[dim] != self.num_rows:
            raise StateError(
                f"A block is given {tensor.shape[dim]} rows beside the states of {self.num_rows}, "
                "so that texts cannot leave early; turn exits off."
            )
        if id(tensor) not in self.cut:
            self.cut[id(tensor)] = (tensor, tensor.index_select(dim, self.kept.to(tensor.device)))
        return self.cut[id(tensor)][1]


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor of an argument, and where it stands."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, one in value.items():
            yield from tensors_in(one, (*path, str(name)))
    elif isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from tensors_in(one, (*path, place))


def _cut(value: Any, rows: ActiveRows, dims: RowDims, path: Path) -> Any:
    if isinstance(value, Tensor):
        if path not in dims:
            raise StateError(
                f"A block is given something new beside its states ({path[-1]!r}), so that texts "
                "cannot leave early; turn exits off."
            )
        dim = dims[path]
        return value if dim is None else rows.of(value, dim)
    if isinstance(value, tuple | list):
        inner = [_cut(one, rows, dims, (*path, place)) for place, one in enumerate(value)]
        return tuple(inner) if isinstance(value, tuple) else inner
    if isinstance(value, dict):
        return {name: _cut(one, rows, dims, (*path, str(name))) for name, one in value.items()}
    return value


class ArgumentShapes:
    """What blocks are given in passes of batches of different sizes.

    Attributes:
        seen: a pass; of each argument, its shapes.
    """

    def __init__(self) -> None:
        self.seen: list[dict[Path, set[tuple[int, ...]]]] = []
        self._thread = threading.get_ident()

    def hook(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
    ) -> None:
        """Called before each block; another thread's pass is not looked at."""
        if kwargs is None or threading.get_ident() != self._thread:
            return
        for path, tensor in tensors_in((args, kwargs)):
            self.seen[-1].setdefault(path, set()).add(tuple(tensor.shape))

    def row_dims(self) -> RowDims:
        """Which dimension of every argument holds rows.

        Raises:
            ValueError: an argument where that cannot be told.
        """
        return {path: self._dim(path) for path in self.seen[0]}

    def _dim(self, path: Path) -> int | None:
        one, two = (seen.get(path, set()) for seen in self.seen)
        if one == two:
            return None
        if len(one) == len(two) == 1:
            pairs = list(zip(*one, *two, strict=True))
            dims = [dim for dim, pair in enumerate(pairs) if pair[0] != pair[1]]
            if len(dims) == 1 and pairs[dims[0]] == SIZES:
                return dims[0]
        raise ValueError(f"where rows stand in {path[-1]!r} cannot be told")


@contextmanager
def leaving(
    blocks: nn.ModuleList, watcher: EarlyExitWatcher, shown: Watched, dims: RowDims, num_rows: int
) -> Generator[None]:
    """Inside, rows of the watcher's pass leave as it says; its watch must have begun.

    Args:
        blocks: of the decoder.
        watcher: the watcher.
        shown: what shows it the states.
        dims: of `ArgumentShapes.row_dims`.
        num_rows: of the batch.
    """
    rows = ActiveRows(num_rows)

    def before(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        staying = watcher.staying(layer) if layer in watcher.stops else None
        if staying is not None and len(staying) < len(hidden):
            if not len(staying):
                raise AllExited
            hidden = hidden.index_select(0, staying)
            rows.leave(staying)
            shown.shrink(len(staying))
        if rows.kept is None:
            return None
        # The states are those of the rows that are left by now: whatever stands beside is not.
        named = {name: one for name, one in kwargs.items() if name != "hidden_states"}
        others = tuple(
            _cut(one, rows, dims, (0, place)) for place, one in enumerate(args) if place > 0
        )
        cut = {name: _cut(one, rows, dims, (1, name)) for name, one in named.items()}
        return ((hidden, *others), cut) if args else ((), cut | {"hidden_states": hidden})

    def hook_of(layer: int) -> Any:
        # Another thread's pass may come while torch adds the hook, and without its keywords.
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            return before(layer, args, kwargs) if shown.passing and kwargs is not None else None

        return hook

    first = min(watcher.stops, default=len(blocks))
    handles = [
        block.register_forward_pre_hook(hook_of(layer), with_kwargs=True)
        for layer, block in enumerate(blocks)
        if layer >= first
    ]
    try:
        yield
    except AllExited:
        watcher.end(None)
    finally:
        for handle in handles:
            handle.remove()


# --- seeing whether a model can


class _Kept:
    """Keeps the states of every layer of one pass, of the rows that are left.

    Args:
        leavers: layer -> rows that leave behind it, by their places in the batch.
    """

    def __init__(self, leavers: Mapping[int, Sequence[int]]) -> None:
        self.stops, self._leavers = tuple(leavers), leavers
        self.states: list[Tensor] = []
        self.rows: list[list[int]] = []
        self.mask = torch.zeros(0, 0, dtype=torch.bool)
        self._left = list(range(LEAVING_ROWS))

    def start(self, step: Step) -> None:
        """Notes where tokens are."""
        self.mask = step.mask

    def see(self, layer: int, hidden: Tensor) -> None:
        """Keeps them, and whose they are."""
        self.states.append(hidden.float().clone())
        self.rows.append(self._left)

    def staying(self, layer: int) -> Int[Tensor, " row"]:
        """All but those that leave here."""
        stay = [place for place, row in enumerate(self._left) if row not in self._leavers[layer]]
        self._left = [self._left[place] for place in stay]
        return torch.tensor(stay, dtype=torch.long, device=self.states[-1].device)

    def end(self, cache: object | None) -> None:
        """Nothing to do."""

    def move(self, cache: object, rows: Tensor) -> None:
        """Nothing to move."""


def seen_to_leave(
    backend: Backend,
    run: Callable[[EarlyExitWatcher, Sequence[int], Tensor, Tensor, RowDims], None],
    blocks: nn.ModuleList,
) -> RowDims | str:
    """Where blocks are given rows, if a pass that rows leave shows what a whole pass does.

    Args:
        backend: the model.
        run: a pass that rows leave.
        blocks: of the decoder.

    Returns:
        A sentence's end that says why rows cannot leave, for a model of which they cannot.
    """
    if len(blocks) < 2:
        return "it has too few blocks"
    try:
        dims = _row_dims(backend, blocks)
        ids, mask = _batch(backend, LEAVING_ROWS)
        layers = range(len(blocks) + 1)
        half = {len(blocks) // 2: (0,)} if len(blocks) > 3 else {}
        whole, parted = _Kept({}), _Kept({1: (1, 3), **half})
        with backend.watch(whole, layers):
            backend.forward(ids, mask)
        run(parted, layers, ids, mask, dims)
    except Exception as error:  # a model's own code raises whatever it likes
        return str(error).strip().split("\n")[0][:120].rstrip(".") or type(error).__name__
    exact = backend.dtype == torch.float32
    errors = _errors(whole, parted)
    worst = float(errors.max() if exact else errors.quantile(0.75))
    if not worst < (ROUNDING if exact else COARSE):
        return f"the states of those that stay become others (by {worst:.2g})"
    return dims


def _row_dims(backend: Backend, blocks: nn.ModuleList) -> RowDims:
    shapes = ArgumentShapes()
    handles = [block.register_forward_pre_hook(shapes.hook, with_kwargs=True) for block in blocks]
    try:
        for num_rows in SIZES:
            shapes.seen.append({})
            backend.forward(*_batch(backend, num_rows))
    finally:
        for handle in handles:
            handle.remove()
    return shapes.row_dims()


def _batch(backend: Backend, num_rows: int) -> tuple[Tensor, Tensor]:
    """Rows of several lengths, padded on the left."""
    places = torch.arange(num_rows * TOKENS).view(num_rows, TOKENS)
    lengths = TOKENS - torch.arange(num_rows) % 4
    return (11 * places + 3) % backend.vocab_size, places % TOKENS >= TOKENS - lengths[:, None]


def _errors(whole: _Kept, parted: _Kept) -> Tensor:
    """Of every token of every layer that was shown of rows that had not left."""
    found: list[Tensor] = []
    for wanted, got, rows in zip(whole.states, parted.states, parted.rows, strict=True):
        own = whole.mask[rows]
        errors = (got - wanted[rows]).norm(dim=-1) / wanted[rows].norm(dim=-1).clamp(min=1e-9)
        found.append(errors[own])
    return torch.cat(found)
