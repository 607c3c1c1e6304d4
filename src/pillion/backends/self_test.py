"""A few steps of an engine before it serves: its states must be those of the model alone.

Architectures attend, place and cache in ways that packed steps may not keep. Whether they do is not
written anywhere, so it is tried: chunks, tokens, two requests in a step and a shared prefix. Knows
no probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.backends.base import Step
from pillion.backends.paged import PagedStep
from pillion.backends.transformers import TransformersBackend
from pillion.errors import ConfigError

NEW_TOKENS, SHORT_TOKENS = 3, 5
ROUNDING = 1e-3
"""Relative error of a token's state in fp32; wrong attention is off by 0.1 and more."""
COARSE = 0.1
"""The same of three quarters of the tokens in a narrower dtype: experts may be chosen otherwise."""


class _Paged:
    """Keeps the last layer's states of every request, by position."""

    def __init__(self, layer: int) -> None:
        self.layers = (layer,)
        self.states: dict[str, dict[int, Tensor]] = {}
        self._step: PagedStep | None = None

    def start(self, step: PagedStep) -> None:
        """Notes whose tokens run."""
        self._step = step

    def see(self, layer: int, hidden: Float[Tensor, "1 token dim"]) -> None:
        """Keeps them."""
        assert self._step is not None
        for chunk in self._step.chunks:
            own = self.states.setdefault(chunk.request, {})
            for place in range(chunk.num_tokens):
                own[chunk.start + place] = hidden[0, chunk.first + place].float()

    def end(self) -> None:
        """Nothing to do."""


class _Alone:
    """Keeps the last layer's states of one pass."""

    def __init__(self) -> None:
        self.states = torch.zeros(0, 0)

    def start(self, step: Step) -> None:
        """Nothing to prepare."""

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Keeps them."""
        self.states = hidden[0].float().clone()

    def end(self, cache: object | None) -> None:
        """Nothing to do."""

    def move(self, cache: object, rows: Tensor) -> None:
        """Nothing to move."""


@dataclass(frozen=True)
class SelfTest:
    """The engine's parts that take a step.

    Attributes:
        backend: the model.
        manager: transformers', not started.
        page_tokens: tokens a page.
        room_tokens: that a request may have.
    """

    backend: TransformersBackend
    manager: Any
    page_tokens: int
    room_tokens: int

    def run(self, watcher: _Paged) -> None:
        """Takes the steps and compares.

        Raises:
            ConfigError: the model cannot run in them, or has other states there.
        """
        first = self._ids(min(self.page_tokens + 7, self.room_tokens - NEW_TOKENS - SHORT_TOKENS))
        rows = {
            "self-test-0": first,
            "self-test-1": self._ids(SHORT_TOKENS, start=3),
            "self-test-2": [*first, *self._ids(SHORT_TOKENS, start=5)],  # a page of it is shared
        }
        answers: dict[str, list[int]] = {}
        try:
            for together in (["self-test-0", "self-test-1"], ["self-test-2"]):
                answers |= self._steps({name: rows[name] for name in together})
        except Exception as error:  # a model's own code raises whatever it likes
            words = str(error).strip().split("\n")[0]
            raise self._refusal(f"its code does not run there ({words[:120]})") from error
        for name, row in rows.items():
            ran = [*row, *answers[name]]
            if name not in watcher.states:
                raise self._refusal("its steps do not go on from the engine's cache")
            self._compare(watcher.states[name], self._alone(ran))

    def _ids(self, count: int, start: int = 0) -> list[int]:
        return [(start + 7 * i + 1) % self.backend.vocab_size for i in range(max(count, 1))]

    def _steps(self, rows: dict[str, list[int]]) -> dict[str, list[int]]:
        """Runs requests to their end, in this thread; the tokens that they were given."""
        processor = self.manager.batch_processor
        for name, row in rows.items():
            self.manager.add_request(
                row, request_id=name, max_new_tokens=NEW_TOKENS, eos_token_id=-1
            )
        states: dict[str, Any] = {}
        with torch.inference_mode():
            while processor.prepare_next_batch():
                states |= {
                    one.state.request_id: one.state
                    for one in processor.inputs_and_outputs.requests_in_batch
                }
                processor._generation_step(self.backend.model)
                processor.update_batch()
        return {name: list(states[name].generated_tokens) for name in rows}

    def _alone(self, ids: Sequence[int]) -> Float[Tensor, "token dim"]:
        watcher, top = _Alone(), self.backend.identity.num_layers
        with self.backend.watch(watcher, [top]):
            self.backend.forward(torch.tensor([list(ids)]), torch.ones(1, len(ids)).bool())
        return watcher.states

    def _compare(self, got: dict[int, Tensor], alone: Float[Tensor, "token dim"]) -> None:
        places = sorted(got)
        wanted = alone[places]
        errors = (torch.stack([got[p] for p in places]) - wanted).norm(dim=-1)
        errors = errors / wanted.norm(dim=-1).clamp(min=1e-9)
        if not bool(wanted.isfinite().all()):
            return  # whatever runs will say so, naming layer and token
        exact = self.backend.dtype == torch.float32
        worst = float(errors.max() if exact else errors.quantile(0.75))
        if not worst < (ROUNDING if exact else COARSE):
            raise self._refusal(f"its states are others there than alone (by {worst:.2g})")

    def _refusal(self, why: str) -> ConfigError:
        return ConfigError(
            f"Model {self.backend.identity.name!r} ({type(self.backend.model).__name__}) cannot be "
            f"served in packed steps: {why}. Score and generate with LanguageModel, or serve it "
            "with PlainEngine."
        )


def watcher_of(backend: TransformersBackend) -> _Paged:
    """The watcher of the steps of a self-test."""
    return _Paged(backend.identity.num_layers)
