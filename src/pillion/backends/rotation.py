"""How far a model turns its positions in the same way, whatever text they are in.

Models of the kinds `longrope` and `dynamic` take other frequencies once the longest text of a pass
is longer than those that they were first trained on: for every row of the batch, and not for what
lies in the KV cache (transformers 5.24). Knows no probes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from pillion.errors import ConfigError, StateError


@dataclass(frozen=True)
class Rotation:
    """Of a model whose frequencies follow the length of its texts.

    Attributes:
        tokens: up to this many, they are always the same.
        follows: whether they follow the length beyond that, too, and the texts that came before.
    """

    tokens: int
    follows: bool


def rotation_of(config: Any) -> Rotation | None:
    """How positions are turned by a model; None where no text's length matters.

    Args:
        config: of the model, of transformers.
    """
    found = list(_rotations(config.get_text_config()))
    return min(found, key=lambda one: one.tokens, default=None)


def _rotations(config: Any) -> Iterator[Rotation]:
    # The second word is that of older releases, as engines of others may have them.
    told = getattr(config, "rope_parameters", None) or vars(config).get("rope_scaling") or {}
    each = [told, *(one for one in told.values() if isinstance(one, Mapping))]
    for one in each:  # of all layers, or of each kind of layer
        kind = one.get("rope_type") or one.get("type") or ""
        if kind in ("longrope", "su"):
            yield Rotation(_first_tokens(one, config), follows=False)
        elif "dynamic" in kind:
            yield Rotation(int(config.max_position_embeddings), follows=True)


def _first_tokens(told: Mapping[str, Any], config: Any) -> int:
    """Of the texts that a model was first trained on, wherever its configuration says so."""
    word = "original_max_position_embeddings"
    return int(told.get(word) or getattr(config, word, None) or config.max_position_embeddings)


def check_rotation(
    model: str, rotation: Rotation, lengths: Int[Tensor, " sequence"], past: int, end: int
) -> None:
    """Returns if a pass turns the positions of each row as for the row alone.

    Args:
        model: what it is called, for the error.
        rotation: of the model.
        lengths: tokens of each sequence in the pass.
        past: positions in the KV cache.
        end: one more than the last position.

    Raises:
        StateError: it does not.
    """
    most = rotation.tokens
    if end <= most:
        return
    all_beyond = past > most or (past == 0 and bool((lengths > most).all()))
    if rotation.follows or not all_beyond:
        raise StateError(
            f"{model} turns positions otherwise in a pass with a text of more than {most:,} tokens "
            f"(here {end:,}), so that its states are others than for the text alone, or by itself; "
            f"run texts of up to {most:,} tokens."
        )


def check_engine_rotation(rotation: Rotation | None, engine: str, window: int) -> None:
    """Returns if an engine of another project turns positions as transformers does.

    Args:
        rotation: of the model.
        engine: what it is called.
        window: tokens that it is to take.

    Raises:
        ConfigError: it does not.
    """
    if rotation is None:
        return
    if rotation.follows:
        raise ConfigError(
            f"The model turns its positions by the length of the text (rope_type dynamic), which "
            f"{engine} does in another way than transformers, so that probes would read other "
            "numbers; serve it with pillion's own engine."
        )
    if window > rotation.tokens:
        raise ConfigError(
            f"The model turns its positions otherwise where texts may have more than "
            f"{rotation.tokens:,} tokens, and {engine} is to take {window:,}, so that probes would "
            f"read other numbers; let it take {rotation.tokens:,} at most."
        )
