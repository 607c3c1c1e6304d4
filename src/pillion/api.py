"""`pillion.Probe`: train, use, save and load a probe from Python."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from pillion.core import OnTooLong, Scope, Template, Verdict, defaults
from pillion.data import Rows, TableLayout, contexts_of
from pillion.data.containers import text_cells
from pillion.errors import ConfigError, Interrupted
from pillion.fit import FitSettings, fit
from pillion.probe import Artefact
from pillion.runtime import LanguageModel, local_folder, usual_template
from pillion.train import ProbeConfig, TrainSettings


class Probe:
    """A probe on a language model: texts and labels in, labels out.

    Args:
        kind: a name of `pillion.probe.AGGREGATORS`.
        model: the language model; None loads the embedded one when it is needed.
        name: what its verdicts are signed with.
        template: `chat` wraps each text as a user's turn, `raw` leaves it; None: `chat`, or `raw`
            where the model has no chat template, of which `fit` warns.
        scope: which turns it reads; None: the last user's, or the answer's where rows end with one.
        contexts: turns that rows are put behind in training: `shipped`, the path of a file with a
            column of messages, or `none`.
        augment: changes of `pillion.data.AUGMENTS`: each row is learnt from once more, changed.
        layers: the layers to read; None for all, `auto` for the fewest that hold nearly all of what
            they know, chosen on training rows.
        learning_rate: None for the probe's own default.
        seed: of the weights.
        on_too_long: what happens to a text beyond the context window.
        train: epochs, batch size and the like.
        settings: of the aggregator, such as `num_heads=8`.

    Attributes:
        artefact: the trained probe with its card.

    Raises:
        ConfigError: an unknown kind or setting, or a value that does not fit.
    """

    def __init__(
        self,
        kind: str = defaults.KIND,
        *,
        model: LanguageModel | None = None,
        name: str = "probe",
        template: Template | None = None,
        scope: Scope | None = None,
        contexts: str = defaults.CONTEXTS,
        augment: Sequence[str] = (),
        layers: Sequence[int] | Literal["auto"] | None = None,
        learning_rate: float | None = None,
        seed: int = 0,
        on_too_long: OnTooLong = defaults.ON_TOO_LONG,
        train: TrainSettings | None = None,
        **settings: Any,
    ) -> None:
        _check_loaded(model)
        misplaced = [name for name in settings if name in TrainSettings.model_fields]
        if misplaced:
            raise ConfigError(
                f"{misplaced[0]!r} is of the training and not of the probe; give "
                f"train=TrainSettings({misplaced[0]}=...), from pillion.train."
            )
        self._model, self.name = model, name
        self._template: Template | None = template
        self._config = ProbeConfig(
            probe=kind, settings=settings, learning_rate=learning_rate, seed=seed
        )
        self._settings = FitSettings(
            template=template or defaults.TEMPLATE,  # `fit` asks the model where none is given
            scope=scope,
            contexts=contexts_of(contexts),
            augment=tuple(augment),
            layers="auto" if layers == "auto" else None if layers is None else tuple(layers),
            on_too_long=on_too_long,
            train=train or TrainSettings(),
        )
        self._artefact: Artefact | None = None

    @property
    def model(self) -> LanguageModel:
        """The language model that it reads."""
        if self._model is None:
            self._model = LanguageModel.load()
        return self._model

    @property
    def artefact(self) -> Artefact:
        """The trained probe with its card.

        Raises:
            ConfigError: before `fit`.
        """
        if self._artefact is None:
            raise ConfigError(f"Probe {self.name!r} is not trained; call fit, or Probe.load.")
        return self._artefact

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of `predict_proba`'s columns."""
        return self.artefact.card.labels

    def fit(
        self,
        texts: Any,
        labels: Any = None,
        validation: tuple[Any, Any] | Rows | None = None,
        turn_labels: bool | None = None,
    ) -> Probe:
        """Trains on labelled texts; some choose the epoch if no validation rows are given.

        Args:
            texts: one or more strings or conversations (lists of messages), in anything that has
                an order; or labelled `Rows`, such as `pillion.data.join_sets` gives.
            labels: one a text: strings, or lists of them for a multi-label probe, or a table of
                zeros and ones. Numbers and booleans become their `str`. None for `Rows`.
            validation: texts and labels, or rows, that choose the epoch and the thresholds.
            turn_labels: whether a list holds a label for each turn of its conversation; None where
                only one reading is possible.

        Raises:
            DataError: labels that cannot be learnt, or texts that do not fit the model.
            ConfigError: rows that have labels of their own, and labels beside them.
        """
        layout = TableLayout(turn_labels=turn_labels)
        rows = _as_rows(texts, labels, "memory", layout)
        held = _as_held(validation, layout)
        for note in rows.notes:
            warnings.warn(note, stacklevel=2)
        template = usual_template(self.model.backend.identity, self._template, _warn)
        settings = replace(self._settings, template=template)
        with tempfile.TemporaryDirectory(prefix="pillion-") as folder:
            work = Path(folder)
            try:
                (fitted,) = fit(self.model, rows, held, [self._config], work, settings, say=_quiet)
            except Interrupted as error:
                raise Interrupted("Training was interrupted; nothing was kept.") from error
        best = fitted.artefact
        self._artefact = Artefact(self.name, best.card, best.network)
        return self

    def verdicts(self, texts: Any) -> list[Verdict]:
        """The verdict of every text."""
        artefact, how = self.artefact, self._settings.on_too_long
        cells = text_cells(_several(texts))
        if not cells:
            return []
        checked = Rows.of(cells, None, "memory").texts
        rows = self.model.score(checked, [artefact], on_too_long=how)
        return [row[self.name] for row in rows]

    def predict(self, texts: Any) -> list[Any]:
        """The label of every text; a tuple of labels for a multi-label probe."""
        several = self.artefact.card.task == "multilabel"
        return [v.labels if several else v.label for v in self.verdicts(texts)]

    def predict_proba(self, texts: Any) -> Float[np.ndarray, "row label"]:
        """The probability of every label, in the order of `labels`."""
        rows = [[v.probs[label] for label in self.labels] for v in self.verdicts(texts)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.labels))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the probe's folder: safetensors and a JSON card.

        Raises:
            StorageError: the disk is full.
        """
        self.artefact.save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: LanguageModel | None = None) -> Probe:
        """A saved probe.

        Args:
            path: its folder, or the URL of a shared one (`hf://owner/name`).
            model: the language model; None loads the embedded one when it is needed.

        Raises:
            ArtefactError: it cannot be read.
            ConfigError: the model's name in the place of the model.
            MismatchError: if `model` is given and is not the one it was trained on.
        """
        _check_loaded(model)
        artefact = Artefact.load(local_folder(path))
        if model is not None:
            artefact.check(model.backend.identity)
        probe = cls(
            artefact.card.probe,
            model=model,
            name=artefact.name,
            template=artefact.card.template,
            scope=artefact.card.scope,
            layers=artefact.card.layers,
            seed=artefact.card.seed,
            **artefact.card.settings,
        )
        probe._artefact = artefact
        return probe


def _check_loaded(model: Any) -> None:
    if isinstance(model, str | os.PathLike):
        raise ConfigError(
            f"Got the model's name, {str(model)!r}, where the model is meant; give "
            f"LanguageModel.load({str(model)!r})."
        )


def _as_rows(texts: Any, labels: Any, source: str, layout: TableLayout) -> Rows:
    if not isinstance(texts, Rows):
        return Rows.of(_several(texts), labels, source, layout)
    if labels is not None:
        raise ConfigError("Got rows, which have labels of their own, and labels; give one of them.")
    return texts


def _as_held(given: tuple[Any, Any] | Rows | None, layout: TableLayout) -> Rows | None:
    if given is None or isinstance(given, Rows):
        return given
    return _as_rows(*given, "memory (validation)", layout)


def _several(texts: Any) -> Any:
    if isinstance(texts, str):
        raise ConfigError("Got one string where texts are meant; give a list: [text].")
    return texts


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=4)


def _quiet(_: str) -> None:
    """Drops a sentence: callers from Python get no progress lines."""
