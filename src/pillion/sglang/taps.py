"""States of SGLang's models, shown to the side cache. Imports no SGLang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pillion.errors import RunError
from pillion.sglang.adapter import SglangStepReader
from pillion.sglang.step import SglangStep


class SglangTaps:
    """What a model with probes shows of its states.

    Args:
        layers: that are read, ascending.
        num_layers: of the model.

    Attributes:
        below: those of `layers` before which there is a block, which SGLang's model hands out.
        reads_last: whether the states behind the last block are read.
        reader: the reader of the states, as soon as there is a KV cache.
    """

    def __init__(self, layers: Sequence[int], num_layers: int) -> None:
        self.below = tuple(layer for layer in layers if layer < num_layers)
        self.reads_last, self._num_layers = num_layers in layers, num_layers
        self.reader: SglangStepReader | None = None
        self._num_tokens: int | None = None
        self._last: Tensor | None = None
        self._num_seen = 0

    def begin(self, step: SglangStep) -> None:
        """The next pass is that of a step."""
        assert self.reader is not None
        self._num_tokens, self._last, self._num_seen = len(step.slots), None, 0
        self.reader.start(step.rows, step.slots, step.history, step.ids)

    def end(self) -> int:
        """The pass is over; see `SglangStepReader.read`.

        Raises:
            RunError: it has not shown its states.
        """
        assert self.reader is not None
        self._num_tokens = self._last = None
        if self._num_seen != len(self.below) + self.reads_last:
            raise RunError(
                "SGLang's model ran without showing its hidden states, so probes would have read "
                "those of another step; start it without graphs and compiled passes."
            )
        return self.reader.read()

    # -- hooks of modules

    def keep_last(self, norm: Any, args: tuple[Any, ...], output: Any) -> None:
        """Of the last norm: what goes into it, which it adds up itself where there are two."""
        if self._num_tokens is not None:
            self._last = output[1] if isinstance(output, tuple) else args[0]

    def pass_by(self, head: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Of what makes logits: SGLang's model hands it the states, which go no further."""
        states: Any = args[4] if len(args) > 4 else kwargs.pop("aux_hidden_states", None)
        if self._num_tokens is not None:
            self._see(states or [])
        return args[:4], kwargs

    # -- inside

    def _see(self, states: Sequence[Tensor]) -> None:
        assert self.reader is not None
        found = dict(zip(self.below, states, strict=True))
        if self.reads_last and self._last is not None:
            found[self._num_layers] = self._last
        for layer, one in found.items():
            self.reader.reading.see(layer, one[None, : self._num_tokens])
        self._num_seen = len(found)
