"""What a judge is: texts in, probabilities of labels out."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pillion.core import Text
from pillion.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class JudgeAnswer:
    """What a judge makes of a text.

    Attributes:
        place: of the text among those asked about, from 0.
        probs: label -> probability, 0 to 1; None if it failed.
        reason: why it failed, without a word of the text.
    """

    place: int
    probs: Mapping[str, float] | None
    reason: str = ""


class Judge(ABC):
    """Says how probable labels are.

    Attributes:
        labels: those that it says, in order.
        key: digest of everything but the text that its answers depend on.
    """

    labels: tuple[str, ...]
    key: str

    @abstractmethod
    def ask(self, texts: Sequence[Text]) -> Iterator[JudgeAnswer]:
        """One answer a text, as they come.

        Raises:
            RunError: the judge cannot be reached, and answers no text.
        """


def digest(facts: Any) -> str:
    """A name for facts that are JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def chosen(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The labels that are asked for, of those that a judge has; all where none are named.

    Raises:
        ConfigError: a label that it does not have.
    """
    for label in wanted:
        if label not in known:
            raise unknown_name("label of the judge", label, known)
    return tuple(wanted or known)


def opposite(label: str) -> str:
    """What the other of two labels is called where one alone is asked for."""
    return f"not {label}"


def in_full(probs: Mapping[str, float]) -> dict[str, float]:
    """Probabilities as they are written: one label alone has the other one beside it."""
    if len(probs) != 1:
        return dict(probs)
    ((label, value),) = probs.items()
    return {label: value, opposite(label): 1 - value}


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, if each has a name of its own.

    Raises:
        ConfigError: none, or one that is named twice.
    """
    if not labels:
        raise ConfigError("Got no label to ask a judge about; give one or more.")
    if len(set(labels)) < len(labels):
        raise ConfigError(f"Labels are {', '.join(labels)}; name each once.")
    return tuple(labels)
