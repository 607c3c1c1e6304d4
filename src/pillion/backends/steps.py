"""What a call of a decoder says of its batch: which positions hold tokens, and where they go on.

What it does not say clearly is refused: a sequence that is read as part of another, or padding
that is read as tokens, would be another number without an error.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from pillion.backends.base import Step
from pillion.backends.rotation import check_rotation, rotation_of
from pillion.errors import StateError

CACHE_WORDS = ("cache", "past_key_values")
"""What models call their KV cache; the second until transformers 5.23."""

STATE_WORDS = ("state", "cache_params", "mems", "past_buckets_states", "past_states")
"""What models without a KV cache call what they carry from pass to pass."""


def named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(module.forward).parameters, args, strict=False)), **kwargs}


def cache_given(said: Mapping[str, Any]) -> Any:
    """The KV cache that a call goes on from; None if there is none."""
    return next((said[word] for word in CACHE_WORDS if said.get(word) is not None), None)


def step_of(decoder: nn.Module, said: Mapping[str, Any], counted: Mapping[Any, int]) -> Step:
    """What a call says of its batch.

    Args:
        decoder: that is called.
        said: its arguments by their names.
        counted: positions that were seen to go into each cache, for those that do not say it.

    Raises:
        StateError: it goes on from something else than a KV cache, or its mask or positions do not
            say which tokens belong together; or the model has other states there than for each
            text alone.
    """
    for word in STATE_WORDS:
        if said.get(word) is not None:
            raise StateError(
                f"{type(decoder).__name__} carries a state of its own from pass to pass "
                f"({word!r}) and no KV cache, which probes cannot follow; run each text whole."
            )
    ids = said.get("input_ids")
    tokens = ids if ids is not None else said["inputs_embeds"][..., 0]
    batch, chunk = tokens.shape
    cache = cache_given(said)
    past = 0 if cache is None else past_tokens(cache, counted)
    given = said.get("attention_mask")
    mask = _of_all_layers(given)
    if mask is None:
        seen = torch.ones(batch, chunk, dtype=torch.bool, device=tokens.device)
    else:
        seen = _seen(mask, past, chunk).expand(batch, chunk)
    _check_the_models_own(decoder, seen, cache, past)
    if given is None and past == 0:
        sequences = _sequences(decoder, said, batch, chunk)
    elif mask is not None and mask.ndim == 4 and chunk > 1:
        sequences = _masked_sequences(mask, past, seen)
    else:
        sequences = None
    if (rotation := rotation_of(decoder.config)) is not None:
        positions = said.get("position_ids")
        end = past + chunk if positions is None else int(positions.max()) + 1
        lengths = seen.sum(1) if sequences is None else torch.bincount(sequences)
        check_rotation(type(decoder).__name__, rotation, lengths, past, end)
    return Step(mask=seen, cache=cache, past_tokens=past, sequences=sequences, ids=ids)


def _check_the_models_own(
    decoder: nn.Module, seen: Bool[Tensor, "batch chunk"], cache: Any, past: int
) -> None:
    """Refuses what a model itself computes otherwise than for the text alone (transformers 5.24).

    Raises:
        StateError: chunks that it does not carry over.
    """
    if past == 0 or seen.shape[1] == 1 or not any(getattr(cache, "is_linear", ())):
        return
    if any("amba" in type(module).__name__ for module in decoder.modules()):
        raise StateError(
            f"{type(decoder).__name__} does not carry its state from a chunk of several tokens to "
            "the next exactly; let the prompt run whole, then token by token."
        )


def past_tokens(cache: Any, counted: Mapping[Any, int]) -> int:
    """Positions that a cache holds.

    Raises:
        StateError: a cache that does not say it, and was filled while no watcher was there.
    """
    try:
        return int(cache.get_seq_length())
    except (AttributeError, ValueError, NotImplementedError):
        pass  # without a layer of attention it counts nothing
    filled = getattr(cache, "has_previous_state", None)
    if cache not in counted and (filled is None or (filled() if callable(filled) else filled)):
        raise StateError(
            f"A cache ({type(cache).__name__}) that does not say how many tokens it holds was "
            "filled before the probes were attached; attach them before the prompt runs."
        )
    return counted.get(cache, 0)


def _of_all_layers(mask: Any) -> Any:
    """The mask that knows every token, where there is one a kind of layer."""
    if not isinstance(mask, dict):
        return mask
    if "full_attention" in mask:
        return mask["full_attention"]
    # Any other hides more from a token, but no token from itself.
    return next((one for one in mask.values() if one is not None), None)


def _seen(mask: Any, past: int, chunk: int) -> Bool[Tensor, "batch chunk"]:
    """Which positions of the chunk hold a token, by an attention mask.

    Raises:
        StateError: for a mask that does not say it.
    """
    shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else ()
    if len(shape) == 2 and shape[1] >= past + chunk:
        if past == 0 and mask.dtype in (torch.int32, torch.int64) and bool((mask > 1).any()):
            raise StateError(
                "The attention mask numbers sequences (it holds more than 0 and 1), which models "
                "do not tell apart by it; give each sequence a row, or position_ids and no mask."
            )
        return mask[:, past : past + chunk].bool()
    if len(shape) == 4 and shape[3] >= past + chunk:
        # Made beforehand, as for a static cache: a token may look at itself, padding may not.
        return _allowed(mask).diagonal(past, 1, 2)[:, :chunk]
    raise StateError(
        f"The attention mask ({type(mask).__name__} {shape or ''}) does not say which of {chunk} "
        f"positions after {past} hold a token; give one of [batch, {past + chunk}], and load the "
        "model with attn_implementation='sdpa' or 'eager'."
    )


def _allowed(mask: Tensor) -> Bool[Tensor, "batch chunk total"]:
    one = mask[:, 0]
    return one if one.dtype == torch.bool else one == 0


def _masked_sequences(
    mask: Tensor, past: int, seen: Bool[Tensor, "batch chunk"]
) -> Int[Tensor, " chunk"] | None:
    """Which sequence each position belongs to, by a mask of four dimensions.

    A token that looks at no token before it begins a sequence. With windows a token still looks at
    the one before it.

    Raises:
        StateError: several sequences in a row, where that cannot be followed.
    """
    chunk = seen.shape[1]
    allowed = _allowed(mask)[:, :chunk, : past + chunk]
    places = torch.arange(past, past + chunk, device=mask.device)
    before = torch.arange(past + chunk, device=mask.device) < places[:, None]
    begins = seen & ~(allowed & before).any(2)
    numbers = begins.long().cumsum(1)
    if past == 0 and int(numbers.max()) <= 1:
        return None
    if past and not bool(begins.any()):
        return None
    first = torch.where(begins, places - past, 0).cummax(1).values + past
    crossing = allowed & (torch.arange(past + chunk, device=mask.device) < first[..., None])
    if past or len(seen) > 1 or not bool(seen.all()) or bool(crossing.any()):
        raise StateError(
            "The attention mask holds several sequences in a row in a way that probes cannot "
            "follow; pack them into a single row without padding, each looking at itself alone, or "
            "give each a row."
        )
    return numbers[0] - 1


def _sequences(
    decoder: nn.Module, said: Mapping[str, Any], batch: int, chunk: int
) -> Int[Tensor, " chunk"] | None:
    """Which sequence each position of a batch without a mask belongs to; None if not packed.

    Raises:
        StateError: several sequences, but the model does not keep them apart.
    """
    bounds, positions = said.get("cu_seq_lens_q"), said.get("position_ids")
    if bounds is not None and batch == 1:
        breaks = torch.zeros(chunk + 1, dtype=torch.long, device=bounds.device)
        breaks[bounds[1:-1].long()] = 1
        numbers = breaks[:-1].cumsum(0)
    elif positions is None or positions.ndim != 2 or chunk == 1:
        return None
    else:
        breaks = (positions.diff() != 1).long()
        numbers = torch.cat([breaks.new_zeros(1), breaks[0].cumsum(0)])
    if not bool(breaks.any()):
        return None
    if batch > 1 or not _keeps_apart(decoder, said):
        raise StateError(
            "Several sequences stand in a row, but the model lets them see each other; pack them "
            "into a single row with position_ids that begin again and use_cache=False, or give "
            "each a row."
        )
    return numbers


def _keeps_apart(decoder: nn.Module, said: Mapping[str, Any]) -> bool:
    """Whether a model keeps packed sequences apart by their positions (transformers 5.24)."""
    config: Any = decoder.config
    if "flash" in str(config._attn_implementation):
        return True
    use_cache = said.get("use_cache")
    cached = getattr(config, "use_cache", True) if use_cache is None else use_cache
    makes_masks = hasattr(sys.modules[type(decoder).__module__], "create_causal_mask")
    positions = said.get("position_ids") is not None  # the masks are made from nothing else
    return makes_masks and positions and not cached and cache_given(said) is None
