"""A tiny model, probes of every scope for it, and what they must say of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from chat_templates import VOCAB, chat_tokenizer
from pillion.backends import load_backend
from pillion.core import ANSWER_SCOPES, PROMPT_SCOPES, SCOPES, Tokens
from pillion.probe import Artefact
from saved_models import save_tiny_model
from tiny_models import distance, full_states, make_artefact, offline


class ProbedModel:
    """Everything about one model that tests ask for.

    Args:
        root: for its files.
        architecture: of transformers.
    """

    def __init__(self, root: Path, architecture: str = "llama") -> None:
        tokenizer = chat_tokenizer("chatml")
        self.folder = save_tiny_model(root / "model", architecture, tokenizer, VOCAB)
        self.backend: Any = load_backend(str(self.folder), dtype="float32", device="cpu")
        self.probes = self._probes()
        self.folders = [root / "probes" / probe.name for probe in self.probes]
        for probe, folder in zip(self.probes, self.folders, strict=True):
            probe.save(folder)

    def _probes(self) -> list[Artefact]:
        """A gate of every scope, on all layers or some, and two that keep values."""
        identity, some = self.backend.identity, (None, [1, 3], [4], [0, 2])
        made = [
            make_artefact(
                f"gate-{scope}", identity, layers=some[i % 4], seed=i, template="chat", scope=scope
            )
            for i, scope in enumerate(SCOPES)
        ]
        for scope in ("all", "user"):
            name, kind = f"mha-{scope}", "multiclass"
            made.append(
                make_artefact(
                    name, identity, "mha", kind, [1, 4], seed=20, template="chat", scope=scope
                )
            )
        return made

    def worst(self, prompt: Tokens, answer: Sequence[int], told: Mapping[str, Any]) -> float:
        """Worst relative error of a verdict; raises unless they are there just where words are.

        Args:
            prompt: with its turns.
            answer: that was drawn; its last token is never read.
            told: `verdicts` of the answer, with logits.
        """
        states = full_states(self.backend, [*prompt, *answer])
        end = len(prompt) + len(answer) - 1
        errors = [0.0]
        for probe in self.probes:
            scope = probe.card.scope
            of_prompt = prompt.ranges(scope) if scope in PROMPT_SCOPES else ()
            is_heard = scope in ANSWER_SCOPES and end > len(prompt)
            of_answer = (range(len(prompt), end),) if is_heard else ()
            for part, ranges in (("prompt", of_prompt), ("response", of_answer)):
                logits = told["logits"][part]
                assert (probe.name in logits) == bool(ranges), (probe.name, part, ranges)
                if ranges:
                    errors.append(_error(probe, logits[probe.name], states, ranges))
        assert told["response_tokens"] == end - len(prompt)
        return max(errors)


def _error(
    probe: Artefact, logits: list[float], states: torch.Tensor, ranges: Sequence[range]
) -> float:
    got = probe.probabilities(torch.tensor([logits]))[0]
    return distance(got, offline(probe, states, ranges))
