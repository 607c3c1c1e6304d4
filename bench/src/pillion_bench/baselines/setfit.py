"""SetFit (arXiv 2209.11055): a sentence encoder fine-tuned on pairs of rows, then a linear head.

The rival where rows are few. It chooses nothing: where test rows are asked, it learns once more,
from training and validation rows together; what is said of validation rows is said before that. Its
package is no part of pillion's extras: it wants much that is needed for nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from pillion.backends import Backend
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.baselines.encoder import EMBEDDER, encoder_path, why_no_encoder
from pillion_bench.problem import Part, Problem


class SetFitSettings(Settings):
    """Settings of SetFit.

    Attributes:
        model: a sentence encoder: a folder, a hub name, or `minilm` (a package brings it).
        pairs: of each row with rows of its own label, and as many with others.
        epochs: over these pairs.
        batch_size: pairs a step.
        learning_rate: of the encoder.
    """

    model: str = EMBEDDER
    pairs: int = Field(default=20, ge=1)
    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2e-5, gt=0)


class SetFit(Method):
    """A fine-tuned encoder with a logistic regression on top."""

    Settings: ClassVar[type[Settings]] = SetFitSettings

    @property
    def seeded(self) -> bool:
        """See `Method.seeded`."""
        return True

    @property
    def rules(self) -> dict[str, Any]:
        """See `Method.rules`: older cells are of validation rows that it had learnt from."""
        return {"validation": "not learnt from"}

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Its package or the encoder may be missing; rows with several labels it does not take."""
        if importlib.util.find_spec("setfit") is None:
            return "The package setfit is not installed."
        if problem.task == "multilabel":
            return "Its pairs are of rows with one label each."
        return why_no_encoder(self.settings.model)

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        problem = place.problem
        is_binary = problem.task == "binary"
        for seed in seeds:
            model = self._trained([problem.train], place, seed)
            held = _said(model, problem.validation, is_binary)
            if problem.test is not None:
                model = self._trained(problem.chosen_on, place, seed)

            def ask(part: Part, model: Any = model) -> Float[np.ndarray, "row output"]:
                return _said(model, part, is_binary)

            count = sum(p.numel() for p in model.model_body.parameters())
            yield Outcome(held, ask, count)

    def _trained(self, parts: Sequence[Part], place: Workplace, seed: int) -> Any:
        setfit, own = _package("setfit"), self.settings
        texts = [text for part in parts for text in part.texts]
        labels = [int(target) for part in parts for target in part.targets]
        arguments = setfit.TrainingArguments(
            output_dir=str(place.folder),
            num_iterations=own.pairs,
            num_epochs=own.epochs,
            batch_size=own.batch_size,
            body_learning_rate=own.learning_rate,
            seed=seed,
            report_to="none",
            save_strategy="no",
            show_progress_bar=False,
        )
        with torch.random.fork_rng(devices=[]):
            model = setfit.SetFitModel.from_pretrained(encoder_path(own.model))
            rows = _package("datasets").Dataset.from_dict({"text": texts, "label": labels})
            setfit.Trainer(model=model, args=arguments, train_dataset=rows).train()
        return model

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: the encoder as it is takes as long."""
        model = _package("setfit").SetFitModel.from_pretrained(encoder_path(self.settings.model))
        weights = sum(p.numel() * p.element_size() for p in model.model_body.parameters())

        def embed(text: str) -> object:
            return model.encode([text])

        return Serving(weights, beside=embed)


def _said(model: Any, part: Part, is_binary: bool) -> Float[np.ndarray, "row output"]:
    probs = model.predict_proba(list(part.texts), as_numpy=True)
    return probs[:, 1:] if is_binary else probs


def _package(name: str) -> Any:
    return importlib.import_module(name)
