"""The shape of what a probe reads and says; no tensors, no models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What a probe reads and how much it says.

    Attributes:
        num_layers: how many layers it reads (not how many the model has).
        dim: width of a hidden state.
        num_outputs: logits: 1 for a binary task, else one per label.
    """

    num_layers: int
    dim: int
    num_outputs: int
