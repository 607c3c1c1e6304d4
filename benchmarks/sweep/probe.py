"""A probe of every layer of any model, untrained, with weights that let every token count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.sweep.shapes import VOCAB
from pillion.backends import Backend, Step
from pillion.core import ModelIdentity
from pillion.probe import Artefact
from pillion.probe.untrained import untrained

LABELS = ("a", "b", "c")


def random_probe(identity: ModelIdentity, layers: Sequence[int] | None = None) -> Artefact:
    """A gate of three classes."""
    settings = {"num_heads": 3}
    return untrained("p", identity, layers=layers, settings=settings, noise=1, labels=LABELS)


class Letters:
    """A tokenizer that knows a letter a token: enough to put answers into words."""

    chat_template = None
    eos_token_id = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Token ids of a text."""
        return {"input_ids": [ord(letter) - 32 for letter in text]}

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        return "".join(chr(32 + token) for token in token_ids)

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
        return {chr(32 + token): token for token in range(VOCAB)}

    def get_added_vocab(self) -> dict[str, int]:
        """No tokens beside the letters."""
        return {}


class Recorder:
    """A watcher that keeps every state of the last pass."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}

    def start(self, step: Step) -> None:
        """Forgets the pass before."""
        self.states = {}

    def see(self, layer: int, hidden: Tensor) -> None:
        """Keeps them."""
        self.states[layer] = hidden.detach().clone()

    def end(self, cache: object | None) -> None:
        """Nothing to do."""

    def move(self, cache: object, rows: Tensor) -> None:
        """Nothing to move."""


def states_alone(backend: Backend, ids: Sequence[int]) -> Tensor:
    """[layer, token, dim]: all layers of a sequence that runs by itself, whole and unpadded."""
    recorder, layers = Recorder(), range(backend.identity.num_layers + 1)
    with backend.watch(recorder, layers):
        backend.forward(torch.tensor([list(ids)]), torch.ones(1, len(ids), dtype=torch.bool))
    return torch.stack([recorder.states[layer][0] for layer in layers])


@torch.no_grad()
def by_definition(probe: Artefact, states: Tensor) -> Tensor:
    """Probabilities of [layer, token, dim] by the network's plain definition."""
    hidden = states[list(probe.card.layers)][:, None].clone()
    mask = torch.ones(1, hidden.shape[2], dtype=torch.bool)
    return probe.probabilities(probe.network(hidden, mask))[0]


def probabilities(verdict: Any) -> Tensor:
    """A verdict's numbers, label by label."""
    return torch.tensor([verdict.probs[label] for label in LABELS])
