"""`pillion.ProbeClassifier`: a probe with the interface of scikit-learn.

Promises what scikit-learn's `check_estimator` asks of a classifier. Learns from pooled states that
are already there, or from texts through `pillion.Probe`; runs no model of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import Tags, check_consistent_length, check_random_state, check_scalar
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from pillion.api import Probe
from pillion.core import Shape, defaults
from pillion.data import Rows, TableLayout
from pillion.data.cells import UnusableCell, text_of
from pillion.data.containers import text_cells
from pillion.errors import ConfigError, DataError
from pillion.probe import Network
from pillion.probe.task import Task, num_outputs, probabilities
from pillion.runtime import LanguageModel
from pillion.train import ProbeConfig, TrainSettings
from pillion.train.learner import Learner, MicroBatch, learning_rate
from pillion.train.order import epoch_batches

MIN_STEPS = 100
"""Steps that fit a small table: with `epochs=None` a few rows are gone over that often."""

TUNED_DIM, MAX_RATE = 576, 0.05
"""The width that default learning rates were chosen at, and the highest one for narrow rows."""

CPU = torch.device("cpu")


class ProbeClassifier(ClassifierMixin, BaseEstimator):
    """A probe as a scikit-learn classifier; passes `check_estimator`, with no check excepted.

    Without `model`, X is a table of pooled hidden states: a row a text, which the probe reads as a
    text of one token, with the features of `num_layers` layers side by side. Every row is trained
    on and the last step's weights are kept. A gate then is a linear model of the RMS-normalised
    state: it sees the direction of a row, not its length.

    With `model`, X is a sequence of texts, and `pillion.Probe` does the work: chat template, all
    layers, a part of the rows held back to choose the epoch (a fifth, of many a tenth). Clones
    share the model. For layers, templates or saving, use `pillion.Probe` itself.

    Either way the likeliest class is predicted; no threshold is fitted.

    Args:
        kind: a name of `pillion.probe.AGGREGATORS`.
        num_layers: layers whose states lie side by side in a row of X; not used with `model`.
        learning_rate: None for the probe's own default; without `model` it grows as rows narrow,
            for a step moves a logit by rate times width.
        epochs: passes over the rows; None: as many as `pillion.Probe` takes, or without `model` 5,
            or as many more as make 100 steps.
        batch_size: rows a step; None: as many as `pillion.Probe` takes, or without `model` 32.
        class_weight: None, `balanced`, or (without `model`) class -> weight.
        settings: of the aggregator, such as `{"num_heads": 1}`.
        random_state: of weights and order: a number, a `RandomState`, or None for another one at
            every fit.
        model: a `LanguageModel` whose states of the texts are read; None if X holds states.

    Attributes:
        classes_: the classes, sorted; the columns of `predict_proba`.
        n_features_in_: columns of X, of states only.
        network_: the trained arithmetic, of states only.
        probe_: the trained `pillion.Probe`, of texts only.
    """

    # scikit-learn's rule: whatever is given is kept as it is, and checked by `fit`.
    @no_type_check
    def __init__(
        self,
        kind: str = defaults.KIND,
        *,
        num_layers: int = 1,
        learning_rate: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        class_weight: str | Mapping[Any, float] | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: Any = 0,
        model: LanguageModel | None = None,
    ) -> None:
        self.kind = kind
        self.num_layers = num_layers
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.settings = settings
        self.random_state = random_state
        self.model = model

    def fit(self, X: Any, y: Any) -> ProbeClassifier:
        """Trains on states (row, feature) or texts, and a class for each.

        Raises:
            ValueError: X, y or a number that cannot be used, or X and y that do not fit.
            ConfigError: an unknown kind or setting, or a value that does not fit the others.
        """
        self._check_counts()
        rows: Any
        if self.model is None:
            rows, y = validate_data(self, X, y, dtype=np.float32)
        else:
            rows, y = _texts(X), column_or_1d(y, warn=True)
            check_consistent_length(rows, y)
        check_classification_targets(y)
        classes, ids = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"Got only one class ({classes[0]}); a probe needs two or more.")
        # The classes last: where this raises, those of an earlier fit still name its columns.
        if self.model is None:
            self.network_ = self._fit_states(self._by_layer(rows), ids, classes)
        else:
            self.probe_ = self._fit_texts(rows, classes[ids])
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "row label"]:
        """The probability of every class, in the order of `classes_`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: X is not what `fit` was given.
        """
        check_is_fitted(self)
        if self.model is not None:
            columns = [self.probe_.labels.index(str(name)) for name in self.classes_]
            return self.probe_.predict_proba(_texts(X))[:, columns]
        rows: Any = validate_data(self, X, dtype=np.float32, reset=False)
        hidden = self._by_layer(rows)
        with torch.inference_mode():
            logits = self.network_(hidden, torch.ones(hidden.shape[1:3], dtype=torch.bool))
            probs = probabilities(_task(len(self.classes_)), logits).double().numpy()
        return probs if probs.shape[1] > 1 else np.hstack([1 - probs, probs])

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of every row; see `predict_proba`."""
        # Called first: an estimator that is not fitted has no classes.
        probs = self.predict_proba(X)
        return self.classes_[probs.argmax(axis=1)]

    def __sklearn_tags__(self) -> Tags:
        """Texts are no table: scikit-learn must not check them as one."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = self.model is not None
        tags.input_tags.two_d_array = self.model is None
        return tags

    def __sklearn_clone__(self) -> ProbeClassifier:
        """An unfitted copy on the same language model, which is frozen and too large to copy."""
        copied = {
            name: value if name == "model" else clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()
        }
        return type(self)(**copied)

    def _check_counts(self) -> None:
        check_scalar(self.num_layers, "num_layers", Integral, min_val=1)
        for name in ("batch_size", "epochs"):
            if (count := getattr(self, name)) is not None:
                check_scalar(count, name, Integral, min_val=1)

    def _by_layer(self, X: np.ndarray) -> Float[Tensor, "layer row 1 dim"]:
        rows, features = X.shape
        if features % self.num_layers:
            raise ConfigError(
                f"X has {features} features, which num_layers={self.num_layers} does not divide; "
                "give the states of every layer side by side."
            )
        states = torch.tensor(X).view(rows, self.num_layers, 1, -1)
        return states.transpose(0, 1).contiguous()

    def _config(self) -> ProbeConfig:
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)
        try:
            return ProbeConfig(
                probe=self.kind,
                settings=dict(self.settings or {}),
                learning_rate=self.learning_rate,
                seed=int(seed),
            )
        except ConfigError as error:
            if str(error).startswith(("learning_rate is", "seed is")):
                raise ValueError(str(error)) from error  # a number, as scikit-learn has it
            raise

    def _fit_states(
        self, hidden: Float[Tensor, "layer row 1 dim"], ids: np.ndarray, classes: np.ndarray
    ) -> Network:
        """The loop of `pillion.train` without validation: nothing is held back."""
        config, labels = self._config(), len(classes)
        layers, rows, _, dim = hidden.shape
        if self.learning_rate is None:
            wider = min(MAX_RATE, config.rate * max(1, TUNED_DIM / dim))
            config = config.model_copy(update={"learning_rate": wider})
        weights, targets = self._class_weights(classes, ids), torch.tensor(ids)
        rows_a_step = self.batch_size or defaults.STEP_ROWS
        steps_an_epoch = -(-rows // rows_a_step)
        epochs = self.epochs or max(5, -(-MIN_STEPS // steps_an_epoch))
        task, step = _task(labels), 0
        # What is dropped is drawn anew each step; the caller's random state is left as it was.
        with torch.random.fork_rng(devices=[]):
            learner = Learner.start(config, Shape(layers, dim, num_outputs(task, labels)), CPU)
            for epoch in range(epochs):
                for row_ids in epoch_batches([1] * rows, rows_a_step, config.seed, epoch):
                    mask = torch.ones(len(row_ids), 1, dtype=torch.bool)
                    part = MicroBatch(
                        hidden[:, row_ids], mask, None, targets[row_ids], 1 / len(row_ids)
                    )
                    learner.accumulate(part, task, weights, step)
                    learner.step(learning_rate(step, epochs * steps_an_epoch, warmup=0.1))
                    step += 1
        learner.check_weights()
        return learner.average

    def _class_weights(self, classes: np.ndarray, ids: np.ndarray) -> Float[Tensor, " label"]:
        weights = compute_class_weight(self.class_weight, classes=classes, y=classes[ids])
        return torch.tensor(weights, dtype=torch.float32)

    def _fit_texts(self, texts: list[Any], y: np.ndarray) -> Probe:
        if self.class_weight not in (None, "balanced"):
            raise ConfigError("With texts, class_weight is None or 'balanced'.")
        config = self._config()
        # What is not given is left to the settings, whose defaults depend on the rows.
        given = {"epochs": self.epochs, "batch_size": self.batch_size}
        train = TrainSettings(
            **{name: count for name, count in given.items() if count is not None},
            class_weights="none" if self.class_weight is None else "balanced",
            order_seed=config.seed,
        )
        probe = Probe(
            config.probe,
            model=self.model,
            learning_rate=config.learning_rate,
            seed=config.seed,
            train=train,
            **config.settings,
        )
        return probe.fit(_rows(texts, tuple(str(one) for one in y)))


def _task(num_classes: int) -> Task:
    return "binary" if num_classes == 2 else "multiclass"


def _rows(texts: list[Any], names: tuple[str, ...]) -> Rows:
    """Rows of which each has its class, however alike names are: none is another's spelling."""
    rows = Rows.of(texts, list(names), "memory", TableLayout(multi_label=False))
    return rows if rows.labels == names else replace(rows, labels=names, notes=())


def _texts(X: Any) -> list[Any]:
    """The texts or conversations of a sequence, or of a table of one column.

    Raises:
        ValueError: anything but a sequence of strings or conversations.
    """
    try:
        texts = text_cells(X)
    except DataError as error:
        raise ValueError(f"With a model, X is a sequence of texts: {error}") from error
    for row, text in enumerate(texts):
        if isinstance(fault := text_of("text", [text]), UnusableCell):
            raise ValueError(
                f"With a model, X is a sequence of texts; row {row + 1} has {fault.what} "
                f"({repr(fault.value)[:40]}). For states leave model out."
            )
    return texts
