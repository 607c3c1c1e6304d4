"""Every text of a study is read once, and everything that is asked of it is asked then.

Knows sources of states and networks, no labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pillion.backends import Backend
from pillion.core import Text, Tokens
from pillion.data import Rows
from pillion.errors import DataError
from pillion.extract import (
    LiveSource,
    Progress,
    SelectedRows,
    StateSource,
    kept_states,
)
from pillion.probe import Network
from pillion.probe.task import Task
from pillion.runtime import LanguageModel, encode_rows
from pillion.train import evaluate_networks
from pillion_bench.real.gather import Gathering
from pillion_bench.real.sets import TextSet
from pillion_bench.real.settings import RealSettings

Said = tuple[np.ndarray, np.ndarray]
"""Probabilities of the validation rows, and of all sets' rows one after the other."""


@dataclass(eq=False)
class Read:
    """The states of a study, and what networks said of them.

    Attributes:
        train: of the training rows, validation among them.
        test: of the first set.
        rest: of all other sets, in their order; None if there are none.
        said: name of a network -> what it said; those of learning curves of validation and test.
    """

    train: Gathering
    test: Gathering
    rest: Gathering | None
    said: dict[str, Said] = field(default_factory=dict[str, Said])

    @classmethod
    def open(
        cls,
        model: LanguageModel,
        train_rows: Rows,
        sets: Sequence[TextSet],
        settings: RealSettings,
        work: Path,
        progress: Progress,
        say: Callable[[str], object],
        opened: ExitStack,
    ) -> Read:
        """Training rows are kept on disk, for they are read in every epoch; the rest is not.

        Args:
            model: whose states.
            train_rows: their texts.
            sets: the test first.
            settings: template, scope, layers, cache.
            work: folder for states, if `settings` names none.
            progress: told of every batch.
            say: told how large states are before any is written.
            opened: closes what is opened.
        """
        backend, folder = model.backend, settings.cache or work
        sources = _Sources(backend, settings)
        encode = sources.encode

        def kept(rows: Sequence[Tokens], name: str) -> Gathering:
            source = kept_states(
                backend,
                rows,
                sources.layers,
                folder / name,
                settings.template,
                settings.on_too_long,
                progress,
                say,
                settings.scope,
            )
            opened.enter_context(source.reader)
            return sources.gathered(source, rows)

        rest = [row for one in sets[1:] for row in encode(one.texts, one.name)]
        test = encode(sets[0].texts, "test")
        return cls(
            kept(encode(train_rows.texts, train_rows.path), "train"),
            # A cache that was asked for may hold the test too; else it is read once, live.
            kept(test, "test") if settings.cache else sources.live(test),
            sources.live(rest) if rest else None,
        )

    def asked_means(self) -> Float[np.ndarray, "row layer dim"]:
        """Pooled states of all sets' rows."""
        return np.concatenate([part.means for part in self._asked])

    def asked_last(self, progress: Progress) -> Float[Tensor, "row dim"]:
        """Last tokens' states of all sets' rows."""
        return torch.cat([part.last_states(progress) for part in self._asked])

    @property
    def _asked(self) -> list[Gathering]:
        return [self.test, *([self.rest] if self.rest is not None else [])]


class _Sources:
    """Rows as tokens, and the states of what is read of them."""

    def __init__(self, backend: Backend, settings: RealSettings) -> None:
        self.backend, self.settings = backend, settings
        self.layers = settings.layers or tuple(range(backend.identity.num_layers + 1))

    def encode(self, texts: Sequence[Text], where: str) -> Sequence[Tokens]:
        how = self.settings
        try:
            return encode_rows(
                self.backend, texts, how.template, how.on_too_long, scopes=[how.scope]
            )
        except DataError as error:
            raise DataError(f"{where}: {error}") from error

    def live(self, rows: Sequence[Tokens]) -> Gathering:
        source = LiveSource(self.backend, rows, self.layers, self.settings.scope)
        return self.gathered(source, rows)

    def gathered(self, source: StateSource, rows: Sequence[Tokens]) -> Gathering:
        last = self.backend.identity.num_layers
        reads_all = self.settings.scope == "all" and self.layers[-1] == last
        return Gathering(source, None if reads_all else LiveSource(self.backend, rows, (last,)))


def read_everything(
    reading: Read,
    networks: Mapping[str, Network],
    everywhere: Sequence[str],
    held_ids: Int[np.ndarray, " some"],
    task: Task,
    progress: Progress,
) -> None:
    """Asks every network about validation and test, and some about all other sets, too.

    Args:
        reading: the states; what was said is added.
        networks: by name.
        everywhere: names of those that are asked about all sets.
        held_ids: training rows that are for validation.
        task: what logits mean.
        progress: told of every batch.
    """
    reading.train.read_all(progress)
    names, every = list(networks), list(networks.values())
    sources = (SelectedRows(reading.train.source, held_ids), reading.test)
    held, tested = (evaluate_networks(every, one, task, progress=progress) for one in sources)
    said = {
        name: (one.numpy(), two.numpy()) for name, one, two in zip(names, held, tested, strict=True)
    }
    if reading.rest is not None:
        chosen = [networks[name] for name in everywhere]
        more = evaluate_networks(chosen, reading.rest, task, progress=progress)
        for name, probs in zip(everywhere, more, strict=True):
            said[name] = (said[name][0], np.concatenate([said[name][1], probs.numpy()]))
    reading.said |= said
