"""A judge that is a text classifier of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pillion.backends.encoders import load_classifier
from pillion.backends.fingerprint import fingerprint_of
from pillion.backends.identity import tokenizer_sha256
from pillion.core import Text
from pillion.data import flat_text
from pillion.errors import ConfigError
from pillion.labelling.base import Judge, JudgeAnswer, chosen, digest, in_full

_NO_LIMIT = 1_000_000
"""Tokenizers without a limit have a huge one."""


class ClassifierJudge(Judge):
    """Runs a sequence classifier on one text at a time, in fp32: no padding, no rounding by it.

    Args:
        name: a folder or a hub name.
        labels: some of its own; none for all of them.

    Raises:
        ConfigError: it cannot be loaded, is a regression, or lacks a label.
    """

    def __init__(self, name: str, labels: Sequence[str] = ()) -> None:
        self.model, self.tokenizer = load_classifier(name)
        config: Any = self.model.config
        if config.problem_type == "regression":
            raise ConfigError(f"{name} gives numbers and no labels; name a classifier.")
        self.own = tuple(str(config.id2label[place]) for place in range(config.num_labels))
        self.labels = chosen(labels, self.own)
        # One output by itself is a yes or no, as several are that do not exclude each other.
        several = config.problem_type == "multi_label_classification"
        self.apart = several or config.num_labels == 1
        most = getattr(config, "max_position_embeddings", None) or _NO_LIMIT
        self.max_tokens = min(most, self.tokenizer.model_max_length)
        # A folder may hold another classifier of the same name and shape by now.
        weights = fingerprint_of(self.model.state_dict().items()).sha256
        facts = [config.to_json_string(), weights, tokenizer_sha256(self.tokenizer)]
        self.key = digest([name, *facts, *self.labels])

    @torch.inference_mode()
    def _probs(self, text: str) -> JudgeAnswer | dict[str, float]:
        inputs = self.tokenizer(text, return_tensors="pt")
        num_tokens = inputs["input_ids"].shape[1]
        if num_tokens > self.max_tokens:
            reason = f"{num_tokens} tokens, and the classifier takes {self.max_tokens}."
            return JudgeAnswer(0, None, f"The text has {reason}")
        logits = self.model(**inputs).logits[0].float()
        probs = logits.sigmoid() if self.apart else logits.softmax(-1)
        named = dict(zip(self.own, probs.tolist(), strict=True))
        return {label: named[label] for label in self.labels}

    def ask(self, texts: Sequence[Text]) -> Iterator[JudgeAnswer]:
        """One answer a text; one that is too long for the classifier fails."""
        for place, text in enumerate(texts):
            found = self._probs(flat_text(text))
            if isinstance(found, JudgeAnswer):
                yield JudgeAnswer(place, None, found.reason)
            else:
                yield JudgeAnswer(place, in_full(found))
