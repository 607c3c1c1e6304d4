"""Texts that stand in two sets: the same, the same but for case and space, or nearly the same.

Knows texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from sklearn.feature_extraction.text import TfidfVectorizer

from pillion.data import normalised

NEAR = 0.9
"""Cosine of character n-grams from which two texts are nearly the same."""
ROWS_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Rows of a test set that stand in the training set.

    Attributes:
        exact: the very text.
        normal: but for case and white space.
        near: at least `NEAR` alike, the others among them.
        partners: the training row that is most alike, for each test row.
    """

    exact: Bool[np.ndarray, " row"]
    normal: Bool[np.ndarray, " row"]
    near: Bool[np.ndarray, " row"]
    partners: np.ndarray

    def counts(self) -> dict[str, int]:
        """Rows of each kind."""
        return {name: int(getattr(self, name).sum()) for name in ("exact", "normal", "near")}


def find_duplicates(train: Sequence[str], test: Sequence[str]) -> Duplicates:
    """Which test texts stand in the training texts.

    Args:
        train: one or more.
        test: one or more.
    """
    known = set(train)
    plain = {normalised(text) for text in train}
    exact = np.array([text in known for text in test])
    normal = np.array([normalised(text) in plain for text in test])
    similarity, partners = _nearest(train, test)
    return Duplicates(exact, normal, normal | (similarity >= NEAR), partners)


def within(texts: Sequence[str]) -> int:
    """Rows whose text stood in an earlier row, but for case and white space."""
    return len(texts) - len({normalised(text) for text in texts})


def conflicts(texts: Sequence[str], labels: Sequence[Any]) -> int:
    """Texts that stand in several rows with different labels."""
    seen: dict[str, set[Any]] = {}
    for text, label in zip(texts, labels, strict=True):
        seen.setdefault(normalised(text), set()).add(label)
    return sum(len(own) > 1 for own in seen.values())


def _nearest(train: Sequence[str], test: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Cosine to the most alike training text, and its row."""
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True)
    known: Any = vectors.fit_transform([f"{normalised(text)} ." for text in train])
    asked: Any = vectors.transform([f"{normalised(text)} ." for text in test])
    best = np.zeros(len(test))
    partners = np.zeros(len(test), dtype=np.int64)
    for start in range(0, len(test), ROWS_AT_ONCE):
        block: Any = (asked[start : start + ROWS_AT_ONCE] @ known.T).toarray()
        partners[start : start + len(block)] = block.argmax(axis=1)
        best[start : start + len(block)] = block.max(axis=1)
    return best, partners
