"""LoRA: the language model itself, fine-tuned for the task through low-rank adapters.

The expensive upper mark (arXiv 2106.09685, by `peft`): adapters in every linear layer of the
blocks, a linear head on the last token's final state. It needs a pass of its own for every text, as
the adapted model is not the one that answers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pillion.backends import Backend
from pillion.backends.transformers import TransformersBackend
from pillion.extract.collector import pad
from pillion_bench.baselines.base import Method, Outcome, Role, Serving, Settings, Workplace
from pillion_bench.baselines.finetune import Rates, described, finetune, predict
from pillion_bench.problem import Part, Problem


class LoraSettings(Settings):
    """Settings of LoRA.

    Attributes:
        rank: of the adapters.
        alpha: their scale is alpha / rank.
        dropout: before an adapter.
        learning_rate: the highest one.
        epochs: passes over the training rows.
        batch_size: rows a step.
        max_tokens: of a text; what is longer loses its beginning.
    """

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    epochs: int = Field(default=3, ge=1)
    batch_size: int = Field(default=16, ge=1)
    max_tokens: int = Field(default=512, ge=1)


class Lora(Method):
    """A classifier made of the language model by adapters."""

    Settings: ClassVar[type[Settings]] = LoraSettings
    role: ClassVar[Role] = "mark"

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Needs a model of transformers."""
        if not isinstance(backend, TransformersBackend):
            return f"LoRA adapts models of transformers, and {type(backend).__name__} is none."
        return None

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        return (self._fit(place, seed) for seed in seeds)

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: merged adapters cost nothing, the second pass is the price."""
        backend, template = place.states.backend, place.problem.spec.template

        def beside(text: str) -> None:
            backend.forward(*pad([backend.encode(text, template)[-self.settings.max_tokens :]]))

        model: Any = getattr(backend, "model", None)
        weights = model.parameters() if model is not None else ()
        return Serving(sum(p.numel() * p.element_size() for p in weights), beside=beside)

    def _fit(self, place: Workplace, seed: int) -> Outcome:
        problem, how = place.problem, self.settings

        def tokens(part: Part) -> list[Sequence[int]]:
            return [row[-how.max_tokens :] for row in place.states.tokens(part)]

        torch.manual_seed(seed)
        model = Adapted(place.states.backend, problem.num_outputs, how)
        rates = Rates(how.epochs, how.learning_rate, batch_size=how.batch_size)
        named = {part.name: tokens(part) for part in problem.chosen_on}
        losses = finetune(model.logits, model, named, problem, rates, seed, place.progress)

        def ask(part: Part) -> np.ndarray:
            return predict(model.logits, model, tokens(part), problem.task)

        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return Outcome(ask(problem.validation), ask, trained, described(rates, losses))


class Adapted(nn.Module):
    """A copy of a backend's decoder with adapters, and a linear head.

    Args:
        backend: of a transformers model; stays as it is.
        num_outputs: logits.
        how: of the adapters.
    """

    def __init__(self, backend: Any, num_outputs: int, how: LoraSettings) -> None:
        from peft import LoraConfig, get_peft_model

        super().__init__()
        assert isinstance(backend, TransformersBackend), "as `why_not` has seen"
        config = LoraConfig(
            r=how.rank,
            lora_alpha=how.alpha,
            lora_dropout=how.dropout,
            target_modules="all-linear",
        )
        decoder: Any = copy.deepcopy(backend.decoder)
        with warnings.catch_warnings():
            # peft asks for what transformers now calls by another name.
            warnings.simplefilter("ignore", FutureWarning)
            self.decoder: Any = get_peft_model(decoder, config)
        self.head = nn.Linear(backend.identity.dim, num_outputs, device=backend.device)

    def logits(self, rows: list[Sequence[int]]) -> Float[Tensor, "row output"]:
        """Of rows of token ids, from their last token's state after the final norm."""
        ids, mask = (one.to(self.head.weight.device) for one in pad(rows))
        said = self.decoder(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        last = said.last_hidden_state[torch.arange(len(rows), device=mask.device), mask.sum(1) - 1]
        return self.head(last.float())
