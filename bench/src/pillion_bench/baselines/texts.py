"""Controls and baselines that read the text alone: TF-IDF, length, sentence embeddings.

No language model is needed. Each is logistic regression on its own features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from pillion.backends import Backend
from pillion_bench.baselines.base import Method, Outcome, Role, Serving, Settings, Workplace
from pillion_bench.baselines.encoder import EMBEDDER, Encoder, why_no_encoder
from pillion_bench.baselines.logistic import STRENGTHS, Goal, Logistic, fit_logistic, refit
from pillion_bench.baselines.newton import Features
from pillion_bench.problem import Problem

Featurise = Callable[[Sequence[str]], Features]


class TextSettings(Settings):
    """Settings of logistic regression on features of texts.

    Attributes:
        strengths: values of C that validation chooses from; several are widened beyond an edge.
        refit: learn once more, from validation rows too, once they have chosen.
    """

    strengths: tuple[float, ...] = STRENGTHS
    refit: bool = False


def goal_of(problem: Problem) -> Goal:
    """What logistic regression learns on a data set, and is chosen by."""
    return Goal(problem.task, problem.num_outputs, problem.leading[0])


class TextMethod(Method):
    """Logistic regression on features of the text."""

    Settings: ClassVar[type[Settings]] = TextSettings

    @abstractmethod
    def featurisers(self, texts: Sequence[str]) -> dict[str, Featurise]:
        """Ways to turn texts into features, fitted on the training texts; validation chooses."""

    def weights_bytes(self, model: Logistic, name: str) -> int:
        """What has to be kept in memory to serve."""
        return model.parameters * 8

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`."""
        problem = place.problem
        parts = problem.train.targets, problem.validation.targets
        tried: dict[str, tuple[Featurise, Logistic, list[Features]]] = {}
        for name, featurise in self.featurisers(problem.train.texts).items():
            features = [featurise(part.texts) for part in problem.chosen_on]
            train, held = zip(features, parts, strict=True)
            model = fit_logistic(train, held, goal_of(problem), self.settings.strengths)
            tried[name] = featurise, model, features
        name = max(tried, key=lambda one: tried[one][1].quality.rank)
        featurise, model, features = tried[name]
        chosen = {
            "features": name,
            **model.facts,
            "features_tried": {
                one: model.quality.facts | {"C": model.strength}
                for one, (_, model, _) in tried.items()
            },
            "refit": self.settings.refit,
        }
        said = model.predict(features[1])
        if self.settings.refit and problem.test is not None:
            train, held = zip(features, parts, strict=True)
            model = refit(model, train, held)
        return [
            Outcome(
                said, lambda part: model.predict(featurise(part.texts)), model.parameters, chosen
            )
        ]

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`."""
        problem = place.problem
        name, featurise = next(iter(self.featurisers(problem.train.texts).items()))
        rows = (featurise(problem.train.texts[:2000]), problem.train.targets[:2000])
        model = fit_logistic(rows, rows, goal_of(problem), (1.0,))
        return Serving(
            self.weights_bytes(model, name),
            beside=lambda text: model.predict(featurise([text])),
        )


class Tfidf(TextMethod):
    """TF-IDF of words and word pairs, or of character n-grams inside words."""

    def featurisers(self, texts: Sequence[str]) -> dict[str, Featurise]:
        """Words with punctuation as words of its own: no text is without one."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(
            ngram_range=(1, 2), token_pattern=r"(?u)\w+|[^\w\s]", sublinear_tf=True
        )
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        return {
            name: made.fit(texts).transform
            for name, made in {"words": words, "characters": characters}.items()
        }


class Length(TextMethod):
    """The logarithms of the numbers of characters and words: what a label owes to length alone."""

    role: ClassVar[Role] = "control"

    def featurisers(self, texts: Sequence[str]) -> dict[str, Featurise]:
        """Logarithms of the counts of characters and words; nothing is fitted."""
        return {"length": _lengths}


def _lengths(texts: Sequence[str]) -> Float[np.ndarray, "row 2"]:
    counts = [(len(text), len(text.split())) for text in texts]
    return np.log1p(np.array(counts, dtype=np.float64).reshape(-1, 2))


class EmbeddingSettings(TextSettings):
    """Settings of sentence embeddings.

    Attributes:
        model: a sentence encoder: a folder, a hub name, or `minilm` (a package brings it).
        max_tokens: of a text; what is longer is cut.
    """

    model: str = EMBEDDER
    max_tokens: int = 256


class Embeddings(TextMethod):
    """Sentence embeddings of an encoder of its own: mean of the last states, length one."""

    Settings: ClassVar[type[Settings]] = EmbeddingSettings

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """The encoder may be missing."""
        return why_no_encoder(self.settings.model)

    def featurisers(self, texts: Sequence[str]) -> dict[str, Featurise]:
        """The encoder is used as it is."""
        self._encoder = Encoder.load(self.settings.model, self.settings.max_tokens)
        return {"embeddings": self._encoder.embed}

    def weights_bytes(self, model: Logistic, name: str) -> int:
        """The encoder is a second model in memory."""
        return self._encoder.weights_bytes + model.parameters * 8
