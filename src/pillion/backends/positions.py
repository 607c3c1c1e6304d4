"""Whether a pass gives the tokens of each row the positions that they have in the text alone.

Where positions are learned, a text that begins at another one has other states; where they are
turned, it has the same. Which a model does is tried, once, when a pass makes it matter.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pillion.backends.watching import Passes
from pillion.core.arithmetic import as_given
from pillion.errors import StateError

TOLERANCES = {torch.float32: 1e-3}
"""Difference between states, a part of their norm, that rounding makes in a dtype."""
_MOVES: weakref.WeakKeyDictionary[nn.Module, dict[bool, bool]] = weakref.WeakKeyDictionary()


def takes_positions(decoder: nn.Module) -> bool:
    """Whether a pass can be told at which position each token stands."""
    return "position_ids" in inspect.signature(decoder.forward).parameters


def check_positions(decoder: nn.Module, said: Mapping[str, Any], passes: Passes) -> None:
    """Returns if each row of a pass that begins texts has the states of its text alone.

    Args:
        decoder: that is called.
        said: its arguments by their names, without a KV cache.
        passes: of the model.

    Raises:
        StateError: positions do not count from its first token, and that matters.
    """
    first = _first_tokens(said.get("attention_mask"))
    padded = first is not None and bool(first.any())
    positions: Any = said.get("position_ids") if takes_positions(decoder) else None
    given = positions is not None and positions.ndim == 2
    moved = bool(_at(positions, first).any()) if given else padded and positions is None
    if moved and _matters(decoder, given, passes):
        why = "counts padding on the left as" if padded else "is given other than a text's own"
        way = "give position_ids that count its tokens from 0, " if takes_positions(decoder) else ""
        raise StateError(
            f"{type(decoder).__name__} {why} positions, and has other states than for the text "
            f"alone; {way}pad on the right, or run texts one by one."
        )


def _first_tokens(mask: Any) -> Tensor | None:
    """Where each row's tokens begin; None where no mask says it."""
    if isinstance(mask, Tensor) and mask.ndim == 2:
        return (mask != 0).long().argmax(1)
    return None


def _at(positions: Any, first: Tensor | None) -> Tensor:
    """The position of each row's first token."""
    if first is None:
        return positions[:, 0]
    return positions.expand(len(first), -1).gather(1, first.to(positions.device)[:, None])


def _matters(decoder: nn.Module, given: bool, passes: Passes) -> bool:
    known = _MOVES.setdefault(decoder, {})
    if given not in known:
        with passes.lock:
            passes.quiet = threading.get_ident()
            try:
                known[given] = _tried(decoder, given)
            finally:
                passes.quiet = None
    return known[given]


@torch.no_grad()
def _tried(decoder: nn.Module, given: bool) -> bool:
    """Whether two tokens have other states at the positions behind their own."""
    device = next(decoder.parameters()).device
    ids = torch.tensor([[1, 2]], device=device)
    moved = (
        {"input_ids": ids, "position_ids": torch.tensor([[1, 2]], device=device)}
        if given
        else {
            "input_ids": torch.tensor([[1, 1, 2]], device=device),
            "attention_mask": torch.tensor([[0, 1, 1]], device=device),
        }
    )
    with as_given(device):
        alone, other = (
            decoder(**keywords, use_cache=False)[0][:, -2:].float()
            for keywords in ({"input_ids": ids}, moved)
        )
    tolerance = TOLERANCES.get(next(decoder.parameters()).dtype, 0.05)
    return bool((other - alone).norm() > tolerance * alone.norm())
