"""Zero- and few-shot prompting of the same language model, with the label names as answers.

The model is shown the label names and the text, and the probability of each label is that of its
first token as the first token of the answer. Examples are earlier turns of the conversation: as
parts of the question they did worse. What a prompt makes likely whatever the text is can be divided
out: what a text without content gets (contextual calibration, Zhao et al. 2021, arXiv 2102.09690)
or what texts get on average (batch calibration, Zhou et al. 2023, arXiv 2309.17249); validation
rows choose. What all prompts begin with is run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Turn
from pillion.core.batching import batches_by_length
from pillion.errors import ConfigError
from pillion.extract import Progress, silent
from pillion.runtime import pad_batch
from pillion_bench.baselines.base import Method, Outcome, Serving, Settings, Workplace
from pillion_bench.choice import quality
from pillion_bench.problem import Part, Problem

BATCH_TOKENS = 2048
NO_CONTENT = "N/A"


class PromptSettings(Settings):
    """Settings of prompting.

    Attributes:
        instruction: before the text; `{labels}` stands for the label names.
        shots: labelled training rows a label that are shown as examples.
        shot_tokens: longest text that is shown as an example.
        max_tokens: of a text; what is longer loses its end.
    """

    instruction: str = "Classify the text. Answer with one of these labels: {labels}."
    shots: int = Field(default=0, ge=0)
    shot_tokens: int = Field(default=40, ge=1)
    max_tokens: int = Field(default=1024, ge=1)


class Prompting(Method):
    """The model's own answer, read as probabilities of the labels."""

    Settings: ClassVar[type[Settings]] = PromptSettings

    @property
    def seeded(self) -> bool:
        """Whether the seed counts: it draws the examples of the prompt."""
        return self.settings.shots > 0

    @property
    def rules(self) -> dict[str, Any]:
        """See `Method.rules`: older cells had examples in the question and one calibration."""
        return {"examples": "turns", "calibration": "by validation"}

    def why_not(self, problem: Problem, backend: Backend) -> str | None:
        """Only single labels can be answered in one token."""
        if problem.task == "multilabel":
            return "A prompt for one label cannot be read as several."
        if len(problem.space.names) > 20:
            return f"{len(problem.space.names)} label names do not fit a prompt (20 at most)."
        answers = _answers(backend, problem.space.names)
        if len(set(answers)) < len(answers):
            shown = ", ".join(backend.decode([token]) for token in answers)
            return f"Label names begin with the same token ({shown}), and the first one answers."
        return None

    def fit(self, place: Workplace, seeds: Sequence[int]) -> Iterable[Outcome]:
        """See `Method.fit`; nothing is learnt, but a threshold for two labels."""
        return [self._ask(place, seed) for seed in seeds]

    def serving(self, place: Workplace) -> Serving:
        """See `Method.serving`: a second pass over the text, after a prefix that is kept."""
        asker = self._asker(place, 0)
        return Serving(0, beside=lambda text: asker.ask([text]))

    def _ask(self, place: Workplace, seed: int) -> Outcome:
        problem, asker = place.problem, self._asker(place, seed)
        binary, held = problem.task == "binary", problem.validation
        said = asker.ask(held.texts, place.progress)
        priors = _priors(said, asker.ask([NO_CONTENT]))
        found = {
            name: quality(
                problem.leading[0], problem.task, _probs(said - prior, binary), held.targets
            )
            for name, prior in priors.items()
        }
        best = max(found, key=lambda name: found[name].rank)

        def ask(part: Part) -> np.ndarray:
            return _probs(asker.ask(part.texts, place.progress) - priors[best], binary)

        facts = {
            "answers": asker.answers,
            "prefix_tokens": len(asker.prefix),
            "calibration": best,
            "tried": {name: one.facts for name, one in found.items()},
        }
        return Outcome(_probs(said - priors[best], binary), ask, 0, facts)

    def _asker(self, place: Workplace, seed: int) -> Asker:
        problem, backend = place.problem, place.states.backend
        instruction = self.settings.instruction.format(labels=", ".join(problem.space.names))
        shots = self._shots(backend, problem, seed)
        return Asker(backend, instruction, shots, problem.space.names, self.settings.max_tokens)

    def _shots(self, backend: Backend, problem: Problem, seed: int) -> list[tuple[str, str]]:
        """Training rows to show and their labels, as many a label as can be found, as drawn."""
        names, train = problem.space.names, problem.train
        random = np.random.default_rng(seed)
        found: list[tuple[str, str]] = []
        for label_id, name in enumerate(names):
            rows = random.permutation(np.flatnonzero(train.targets == label_id))
            short = (row for row in rows if self._is_short(backend, train, int(row)))
            chosen = [row for row, _ in zip(short, range(self.settings.shots), strict=False)]
            found += [(train.texts[int(row)], name) for row in chosen]
        return [found[place] for place in random.permutation(len(found))]

    def _is_short(self, backend: Backend, train: Part, row: int) -> bool:
        return len(backend.encode(train.texts[row], "raw")) <= self.settings.shot_tokens


class Asker:
    """Asks the model for the label of texts, after what all questions share.

    Args:
        backend: the model.
        instruction: what stands before the first text.
        shots: texts and their labels, asked and answered before.
        names: of the labels.
        max_tokens: of a text; what is longer loses its end.

    Attributes:
        answers: the first tokens of the label names, as text.
        prefix: the tokens that all questions begin with.
    """

    def __init__(
        self,
        backend: Backend,
        instruction: str,
        shots: Sequence[tuple[str, str]],
        names: Sequence[str],
        max_tokens: int,
    ) -> None:
        self.backend, self.instruction, self.max_tokens = backend, instruction, max_tokens
        self.earlier = [
            turn
            for text, label in shots
            for turn in (Turn("user", _asked(text)), Turn("assistant", label))
        ]
        self.answer_ids = _answers(backend, names)
        self.answers = [backend.decode([token]) for token in self.answer_ids]
        self.prefix = _common(self._question("a"), self._question("Z"))
        self.cache = backend.new_cache()
        backend.forward(*pad_batch([self.prefix]), cache=self.cache)

    def ask(self, texts: Sequence[str], progress: Progress = silent) -> Float[Tensor, "row label"]:
        """Log-probabilities of the labels' first tokens, among all tokens."""
        rest = [self._question(text)[len(self.prefix) :] for text in texts]
        found = torch.empty(len(texts), len(self.answer_ids))
        done, total = 0, sum(map(len, rest))
        for row_ids in batches_by_length([len(row) for row in rest], BATCH_TOKENS, 64):
            ids, mask = pad_batch([rest[row] for row in row_ids])
            seen = torch.cat([mask.new_ones(len(mask), len(self.prefix)), mask], 1)
            cache = self.backend.fork(self.cache, len(row_ids))
            if cache is None:
                raise ConfigError(
                    f"The KV cache of {self.backend.identity.name!r} cannot be copied, which "
                    "prompting needs; leave the prompting baselines out."
                )
            logits = self.backend.forward(ids, seen, cache, logits=True)
            assert logits is not None
            found[row_ids] = logits.float().log_softmax(-1)[:, self.answer_ids].cpu()
            done += sum(len(rest[row]) for row in row_ids)
            progress("prompt", done, total)
        return found

    def _question(self, text: str) -> Sequence[int]:
        tokens = self.backend.encode(text, "raw")
        if len(tokens) > self.max_tokens:
            text = self.backend.decode(tokens[: self.max_tokens]).strip("\ufffd")
        first, *others = [*self.earlier, Turn("user", _asked(text))]
        first = Turn("user", f"{self.instruction}\n\n{first.content}")
        return self.backend.encode_chat((first, *others))


def _answers(backend: Backend, names: Sequence[str]) -> list[int]:
    """The first token of each label name."""
    return [backend.encode(name, "raw")[0] for name in names]


def _priors(
    said: Float[Tensor, "row label"], no_content: Float[Tensor, "one label"]
) -> dict[str, Float[Tensor, "one label"]]:
    """What may be divided out, as log-probabilities of the labels, by the name of the way.

    Args:
        said: of texts, among all tokens.
        no_content: of a text without content.
    """
    mean = said.log_softmax(-1).logsumexp(0, keepdim=True)
    return {"none": torch.zeros_like(mean), "without content": no_content, "mean of texts": mean}


def _asked(text: str) -> str:
    return f"Text: {text}\nLabel:"


def _common(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """What two questions begin with."""
    found: list[int] = []
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        found.append(a)
    return found


def _probs(logits: Float[Tensor, "row label"], binary: bool) -> Float[np.ndarray, "row output"]:
    probs = logits.softmax(-1)
    return (probs[:, 1:] if binary else probs).numpy()
