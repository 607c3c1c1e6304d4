"""scikit-learn's own checks of a classifier, and what they cannot know: layers, texts, seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import pillion
from pillion import LanguageModel, ProbeClassifier
from pillion.backends.fake import FakeBackend
from pillion.errors import ConfigError
from pillion.probe import AGGREGATORS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the dog barks", "dogs and dogs", "my dog ran", "a good dog"] * 5 + [
    "rain falls",
    "it rains a lot",
    "rain again",
    "much rain",
] * 5
LABELS = ["dog"] * 20 + ["weather"] * 20


@parametrize_with_checks([ProbeClassifier()])
def test_scikit_learn_finds_a_classifier(estimator: Any, check: Any) -> None:
    check(estimator)


def states(rows: int = 60, layers: int = 3, dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """States whose last layer alone tells three classes apart."""
    random = np.random.default_rng(0)
    y = np.arange(rows) % 3
    X = random.normal(size=(rows, layers, dim))
    X[np.arange(rows), -1, y] += 6
    return X.reshape(rows, -1), np.array(["a", "b", "c"])[y]


@pytest.mark.parametrize("kind", AGGREGATORS)
def test_every_aggregator_fits_states_of_several_layers(kind: str) -> None:
    X, y = states()
    assert ProbeClassifier(kind, num_layers=3).fit(X, y).score(X, y) > 0.9


def test_layers_that_do_not_divide_the_features_are_refused() -> None:
    X, y = states()
    with pytest.raises(ConfigError, match=r"24 features, which num_layers=5 does not divide"):
        ProbeClassifier(num_layers=5).fit(X, y)


def test_the_length_of_a_row_says_nothing_to_a_gate() -> None:
    X, y = states(layers=1)
    fitted = ProbeClassifier().fit(X, y)
    np.testing.assert_allclose(fitted.predict_proba(X), fitted.predict_proba(7 * X), atol=1e-5)


def test_the_same_seed_gives_the_same_probabilities_and_another_one_others() -> None:
    X, y = states()
    one, same, other = (
        ProbeClassifier(random_state=seed, epochs=2).fit(X, y).predict_proba(X)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_random_state_may_be_a_generator_or_none() -> None:
    X, y = states()
    for seed in (np.random.RandomState(3), None):
        assert ProbeClassifier(random_state=seed).fit(X, y).score(X, y) > 0.9


def test_training_leaves_the_random_state_of_the_caller_as_it_was() -> None:
    X, y = states()
    before = torch.get_rng_state()
    ProbeClassifier("gate-mlp", epochs=1, settings={"dropout": 0.5}).fit(X, y)
    assert torch.equal(before, torch.get_rng_state())


def test_balanced_classes_lift_the_rare_one() -> None:
    random = np.random.default_rng(0)
    X, y = random.normal(size=(200, 4)), (np.arange(200) < 20).astype(int)
    X[y == 1] += 0.7
    plain, balanced = (
        ProbeClassifier(class_weight=weight).fit(X, y).predict_proba(X)[:, 1].mean()
        for weight in (None, "balanced")
    )
    assert balanced > plain + 0.1


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"num_layers": 0}, {"learning_rate": -1.0}]
)
def test_a_number_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ProbeClassifier(**wrong).fit(*states())


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gate'"):
        ProbeClassifier("gates").fit(*states())


# --- texts


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(FakeBackend())


def test_with_a_model_texts_are_learnt(model: LanguageModel) -> None:
    fitted = ProbeClassifier(model=model, learning_rate=0.03, epochs=10).fit(TEXTS, LABELS)
    assert fitted.score(TEXTS, LABELS) > 0.8
    assert fitted.probe_.labels == ("dog", "weather")


def test_with_a_model_it_is_trained_as_a_probe_is(model: LanguageModel) -> None:
    """The bug: five passes in steps of 32 rows, whatever the rows, where `Probe` takes its own."""
    classifier = ProbeClassifier(model=model).fit(TEXTS, LABELS)
    probe = pillion.Probe(model=model).fit(TEXTS, LABELS)
    assert classifier.probe_.artefact.card.training == probe.artefact.card.training
    np.testing.assert_array_equal(classifier.predict_proba(TEXTS), probe.predict_proba(TEXTS))


@pytest.mark.parametrize("labels", [[1, 0], [10, 9, 8], [True, False], ["yes", "no"]])
def test_columns_are_in_the_order_of_the_classes_whatever_their_type(
    model: LanguageModel, labels: list[Any]
) -> None:
    y = [labels[i % len(labels)] for i in range(len(TEXTS))]
    fitted = ProbeClassifier(model=model, epochs=1).fit(TEXTS, y)
    probs = fitted.predict_proba(TEXTS[:3])
    by_name = fitted.probe_.verdicts(TEXTS[:3])
    assert fitted.classes_.tolist() == sorted(set(labels))
    for row, verdict in zip(probs, by_name, strict=True):
        assert row.tolist() == [verdict.probs[str(name)] for name in fitted.classes_]
    np.testing.assert_array_equal(fitted.predict(TEXTS[:3]), fitted.classes_[probs.argmax(1)])


@pytest.mark.parametrize(
    "names", [("Yes", "yes", "no"), ("a,b", "a", "b"), ("1.0", "1"), ("[1]", "[2]")]
)
def test_classes_that_are_spelt_alike_or_like_lists_stay_apart(
    model: LanguageModel, names: tuple[str, ...]
) -> None:
    """They were one label, or several of a row, and no probability of a class could be asked."""
    y = [names[i % len(names)] for i in range(len(TEXTS))]
    fitted = ProbeClassifier(model=model, epochs=1).fit(TEXTS, y)
    assert set(fitted.probe_.labels) == set(names)
    assert fitted.predict_proba(TEXTS[:2]).shape == (2, len(names))


def test_clones_share_the_model_and_are_not_fitted(model: LanguageModel) -> None:
    fitted = ProbeClassifier(model=model, settings={"num_heads": 2}, epochs=1).fit(TEXTS, LABELS)
    copied = clone(fitted)
    assert copied.model is model
    assert copied.settings == {"num_heads": 2}
    assert not hasattr(copied, "classes_")


def test_cross_validation_runs_on_texts(model: LanguageModel) -> None:
    scores = cross_val_score(ProbeClassifier(model=model, epochs=1), TEXTS, LABELS, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("wrong", ["one text", [[1.0, 2.0]], [1, 2]])
def test_with_a_model_anything_but_texts_is_refused(model: LanguageModel, wrong: Any) -> None:
    with pytest.raises(ValueError, match="sequence of texts"):
        ProbeClassifier(model=model).fit(wrong, ["a", "b"])


def test_a_row_that_is_no_text_is_named(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match=r"row 2 has an empty or null text \(None\)"):
        ProbeClassifier(model=model).fit(["one", None], ["a", "b"])


def test_with_a_model_weights_by_class_are_refused(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="None or 'balanced'"):
        ProbeClassifier(model=model, class_weight={"dog": 2.0}).fit(TEXTS, LABELS)


def test_one_class_is_refused(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="only one class"):
        ProbeClassifier(model=model).fit(TEXTS, ["dog"] * len(TEXTS))


@pytest.mark.parametrize("of_texts", [False, True])
def test_a_fit_that_fails_leaves_what_was_fitted(model: LanguageModel, of_texts: bool) -> None:
    """Its classes stayed beside the probe of before, whose labels then had other names."""
    states = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    X: Any = [f"text {i}" for i in range(24)] if of_texts else states
    one = ProbeClassifier(model=model if of_texts else None, epochs=2)
    said = one.fit(X, ["bad", "good"] * 12).predict(X)
    with pytest.raises(ConfigError, match="nosuch"):
        one.set_params(settings={"nosuch": 1}).fit(X, ["aa", "zz"] * 12)
    with pytest.raises(ValueError, match="only one class"):
        one.set_params(settings=None).fit(X, ["aa"] * 24)
    assert list(one.classes_) == ["bad", "good"] and list(one.predict(X)) == list(said)


def test_a_classifier_takes_a_table_of_one_column_and_conversations() -> None:
    """A frame of one column gave one prediction, for the column's name."""
    texts = [f"text {n}" for n in range(40)]
    talks = [[{"role": "user", "content": text}] for text in texts]
    model = pillion.LanguageModel.load("fake")
    probe = pillion.ProbeClassifier(model=model, epochs=1).fit(texts, ["a", "b"] * 20)
    assert len(probe.predict(np.array(texts)[:, None])) == 40
    assert probe.predict(talks).tolist() == probe.predict(texts).tolist()
    with pytest.raises(ValueError, match="table of 2 columns"):
        probe.predict(np.array([["a", "b"]]))
