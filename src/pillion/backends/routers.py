"""The routers of a mixture of experts: their logits, read as if they were more layers.

Router j of a model of N blocks is layer N + 1 + j: its logits stand in the first components of a
state, and zeros behind them. Whatever reads, keeps or folds states then does the same with routers.
Knows routers by what transformers itself records as `router_logits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pillion.errors import StateError


@dataclass(frozen=True)
class Router:
    """A router and where it is.

    Attributes:
        block: of the model, from 0.
        module: that gives the logits.
        index: of the logits in what the module gives.
    """

    block: int
    module: nn.Module
    index: int

    def state(self, output: Any, shape: torch.Size, dim: int) -> Float[Tensor, "batch chunk dim"]:
        """The logits of a pass as states.

        Args:
            output: of the module.
            shape: rows and tokens of the pass.
            dim: width of a state.

        Raises:
            StateError: there is not one set of logits a token, or it is wider than a state.
        """
        logits = output[self.index] if isinstance(output, tuple | list) else output
        experts = logits.shape[-1]
        if logits.numel() != shape.numel() * experts or experts > dim:
            raise StateError(
                f"The router of block {self.block} gives logits of shape {list(logits.shape)} for "
                f"{list(shape)} tokens of width {dim}; probes read routers that give one set of "
                "logits a token, no wider than a state."
            )
        return nn.functional.pad(logits.reshape(*shape, experts), (0, dim - experts))


def find_routers(decoder: nn.Module, blocks: Iterable[nn.Module]) -> tuple[Router, ...]:
    """The routers of a model's blocks, from the lowest; none of a dense model."""
    return tuple(_found(getattr(decoder, "_can_record_outputs", None) or {}, blocks))


def _found(recorded: Any, blocks: Iterable[nn.Module]) -> Iterator[Router]:
    recorder = recorded.get("router_logits")
    kind = getattr(recorder, "target_class", recorder)
    if not isinstance(kind, type):
        return
    for number, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(module, kind):
                yield Router(number, module, getattr(recorder, "index", 0))


def in_order(
    wanted: Iterable[int], given: Mapping[int, Float[Tensor, "batch chunk dim"]]
) -> list[tuple[int, Float[Tensor, "batch chunk dim"]]]:
    """The routers that are read, ascending, with what each gave in a pass.

    Args:
        wanted: the layers that they are read as.
        given: their states.

    Raises:
        StateError: one gave nothing: something else computes in its place.
    """
    layers = sorted(wanted)
    if missing := [layer for layer in layers if layer not in given]:
        raise StateError(
            f"The routers that are read as layers {missing} gave nothing in this pass: a kernel "
            "that takes the place of their blocks hides them. Run the model without such kernels, "
            "or use a probe that reads no routers."
        )
    return [(layer, given[layer]) for layer in layers]
