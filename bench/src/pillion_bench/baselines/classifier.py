"""A classifier of its own in front of the language model: "guard, then serve".

Any sequence classifier of transformers by name or folder: used as it is (a guard model, with its
labels named), or fine-tuned on the training rows. It reads every text before the language model
does, and stays in memory beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pillion.backends import Backend
from pillion.errors import ConfigError, unknown_name
from pillion.extract.collector import pad
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.baselines.encoder import EMBEDDER, encoder_path, why_no_encoder
from pillion_bench.baselines.finetune import Rates, described, finetune, long_enough, predict
from pillion_bench.problem import Part, Problem


class ClassifierSettings(Settings):
    """Settings of a classifier.

    Attributes:
        model: a sequence classifier: a folder, a hub name, or `minilm` (a package brings it).
        epochs: of fine-tuning, with a fresh head; while the last is the best, twice as many are
            tried; 0 to use the model and its head as they are.
        longest: epochs at most.
        labels: for a model that is used as it is: its label -> one of the data set's.
        learning_rate: the highest one.
        batch_size: rows a step.
        max_tokens: of a text; what is longer is cut.
    """

    model: str = EMBEDDER
    epochs: int = Field(default=3, ge=0)
    longest: int = Field(default=24, ge=1)
    labels: dict[str, str] = Field(default_factory=dict[str, str])
    learning_rate: float = Field(default=1e-4, gt=0)
    batch_size: int = Field(default=32, ge=1)
    max_tokens: int = Field(default=256, ge=1)


class Classifier(Method):
    """A second model, in front of the one that answers."""

    Settings: ClassVar[type[Settings]] = ClassifierSettings

    @property
    def seeded(self) -> bool:
        """Only training has chance in it."""
        return self.settings.epochs > 0

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """The model may be missing."""
        return why_no_encoder(self.settings.model)

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        if not self.settings.epochs:
            return [self._as_it_is(place)]
        how = self.settings
        rates = Rates(how.epochs, how.learning_rate, batch_size=how.batch_size, longest=how.longest)

        def learn(seed: int) -> Outcome:
            return long_enough(
                lambda epochs: self._trained(place, seed, replace(rates, epochs=epochs)),
                place.problem,
                rates,
            )

        return (learn(seed) for seed in seeds)

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`."""
        guard = self._load(place, place.problem.num_outputs if self.settings.epochs else None)
        return Serving(guard.weights_bytes, beside=guard.ask)

    def _load(self, place: Workplace, num_outputs: int | None) -> Guard:
        from pillion.backends.encoders import load_classifier

        path = encoder_path(self.settings.model)
        model, tokenizer = load_classifier(path, num_outputs)
        # Beside the language model, as a pipeline would have it.
        return Guard(model.to(place.states.backend.device), tokenizer, self.settings.max_tokens)

    def _trained(self, place: Workplace, seed: int, rates: Rates) -> Outcome:
        problem = place.problem
        torch.manual_seed(seed)  # the fresh head
        guard = self._load(place, problem.num_outputs)
        tokens = {part.name: guard.encode(part) for part in problem.chosen_on}
        losses = finetune(guard.logits, guard.model, tokens, problem, rates, seed, place.progress)

        def ask(part: Part) -> np.ndarray:
            return predict(guard.logits, guard.model, guard.encode(part), problem.task)

        facts = described(rates, losses)
        return Outcome(ask(problem.validation), ask, guard.num_parameters, facts)

    def _as_it_is(self, place: Workplace) -> Outcome:
        problem, guard = place.problem, self._load(place, None)
        columns = self._columns(guard, problem)

        def ask(part: Part) -> np.ndarray:
            said = predict(guard.logits, guard.model, guard.encode(part), "multiclass")
            probs = _named(said, columns)
            return probs[:, 1:] if problem.task == "binary" else probs

        facts = {"labels": guard.labels, "parameters": guard.num_parameters}
        return Outcome(ask(problem.validation), ask, 0, facts)

    def _columns(self, guard: Guard, problem: Problem) -> list[list[int]]:
        """For every label of the data set, the model's labels that stand for it."""
        if problem.task == "multilabel":
            raise ConfigError("A classifier of single labels cannot be used for several a row.")
        given = self.settings.labels or {name: name for name in problem.space.names}
        for theirs, ours in given.items():
            if theirs not in guard.labels:
                raise unknown_name("label of the classifier", theirs, guard.labels)
            if ours not in problem.space.names:
                raise unknown_name("label", ours, problem.space.names)
        return [
            [place for place, name in enumerate(guard.labels) if given.get(name) == ours]
            for ours in problem.space.names
        ]


class Guard:
    """A sequence classifier of transformers.

    Args:
        model: the classifier.
        tokenizer: its tokenizer.
        max_tokens: of a text; what is longer is cut.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens

    @property
    def labels(self) -> list[str]:
        """The names of its outputs."""
        named = self.model.config.id2label
        return [str(named[place]) for place in range(len(named))]

    @property
    def num_parameters(self) -> int:
        """Count of the model's weights."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def weights_bytes(self) -> int:
        """Bytes of the model's weights."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def encode(self, part: Part) -> list[list[int]]:
        """Token ids of every row."""
        return [self._encode(text) for text in part.texts]

    def logits(self, rows: list[Sequence[int]]) -> Float[Tensor, "row output"]:
        """Logits of rows of token ids."""
        ids, mask = (one.to(self.model.device) for one in pad(rows))
        return self.model(input_ids=ids, attention_mask=mask.long()).logits

    @torch.inference_mode()
    def ask(self, text: str) -> Float[Tensor, "row output"]:
        """Logits of one text."""
        return self.logits([self._encode(text)])

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]


def _named(
    probs: Float[np.ndarray, "row theirs"], columns: Sequence[Sequence[int]]
) -> Float[np.ndarray, "row ours"]:
    """Probabilities of the data set's labels, scaled to sum to one."""
    found = np.stack([probs[:, list(places)].sum(1) for places in columns], 1)
    total = found.sum(1, keepdims=True)
    return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / len(columns))
