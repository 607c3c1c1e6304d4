"""Calibrated probabilities, bands to abstain in and conformal sets, as the card says them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from made_probes import made_artefact
from pillion.errors import ArtefactError, ConfigError
from pillion.probe import Artefact
from pillion.probe.calibration import Affine, Calibrator, Isotonic
from pillion.probe.decisions import Conformal, abstains, prediction_set


class Logits(ClassifierMixin, BaseEstimator):
    """scikit-learn's view of logits that are already there."""

    def __init__(self, num_classes: int = 2) -> None:
        self.num_classes = num_classes
        self.classes_ = np.arange(num_classes)
        self.n_features_in_ = 1 if num_classes == 2 else num_classes

    def fit(self, X: Any, y: Any) -> Logits:
        raise AssertionError("it is frozen")

    def predict(self, X: Any) -> Any:
        raise AssertionError("its decisions are not asked for")

    def decision_function(self, X: Any) -> Any:
        return X[:, 0] if self.num_classes == 2 else X


def noisy(num_classes: int, rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident logits, float64 of fp32 values, and classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(num_classes, size=rows)
    logits = 2 * rng.normal(size=(rows, num_classes)) + 3 * np.eye(num_classes)[y]
    if num_classes == 2:
        logits = logits[:, 1:] - logits[:, :1]
    else:
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return logits.astype(np.float32).astype(np.float64), y


def calibration_of(method: str, calibrators: list[Any], num_classes: int) -> Affine | Isotonic:
    count = 1 if num_classes == 2 else num_classes
    if method == "temperature":
        # scikit-learn's logits of two classes are (-x, x): their difference is 2 x.
        scale = float(calibrators[0].beta_) * (2 if num_classes == 2 else 1)
        return Affine(method="temperature", scales=(scale,) * count, offsets=(0.0,) * count)
    if method == "sigmoid":
        scales = tuple(-float(c.a_) for c in calibrators)
        return Affine(
            method="platt", scales=scales, offsets=tuple(-float(c.b_) for c in calibrators)
        )
    return Isotonic(
        logits=tuple(tuple(c.X_thresholds_.tolist()) for c in calibrators),
        probs=tuple(tuple(c.y_thresholds_.tolist()) for c in calibrators),
    )


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
def test_calibrated_probabilities_are_those_of_scikit_learn(method: str, num_classes: int) -> None:
    logits, y = noisy(num_classes)
    fitted = CalibratedClassifierCV(FrozenEstimator(Logits(num_classes)), method=method)
    wanted = fitted.fit(logits, y).predict_proba(logits)
    calibrators = fitted.calibrated_classifiers_[0].calibrators
    task = "binary" if num_classes == 2 else "multiclass"
    card = calibration_of(method, calibrators, num_classes)
    # Of multi-class logits a constant a row means nothing.
    shift = 0.0 if num_classes == 2 else torch.randn(len(logits), 1)
    got = Calibrator(task, card)(torch.tensor(logits, dtype=torch.float32) + shift)
    assert got.dtype == torch.float32
    # A step of an isotonic curve is steep: fp32 logits leave its sixth digit open.
    limit = 1e-5 if method == "isotonic" else 2e-6
    np.testing.assert_allclose(got, wanted if num_classes > 2 else wanted[:, 1:], atol=limit)


def test_multilabel_columns_are_calibrated_one_by_one() -> None:
    card = Affine(method="platt", scales=(1.0, 2.0), offsets=(0.0, -1.0))
    got = Calibrator("multilabel", card)(torch.tensor([[0.5, 0.5]]))
    wanted = torch.tensor([[0.5, 0.0]]).sigmoid()
    torch.testing.assert_close(got, wanted)


def test_beyond_its_knots_an_isotonic_line_is_flat_and_a_single_knot_is_a_constant() -> None:
    line = Isotonic(logits=((-1.0, 1.0),), probs=((0.2, 0.8),))
    got = Calibrator("binary", line)(torch.tensor([[-9.0], [0.0], [9.0], [torch.nan]]))
    torch.testing.assert_close(got[:3, 0], torch.tensor([0.2, 0.5, 0.8]))
    assert got[3].isnan()
    point = Calibrator("binary", Isotonic(logits=((0.0,),), probs=((0.3,),)))
    torch.testing.assert_close(point(torch.tensor([[-5.0], [5.0]]))[:, 0], torch.tensor([0.3, 0.3]))


def test_where_all_isotonic_lines_say_zero_every_label_is_as_likely() -> None:
    zeros = Isotonic(logits=((-1.0, 0.0),) * 3, probs=((0.0, 1.0),) * 3)
    got = Calibrator("multiclass", zeros)(torch.tensor([[1.0, 1.0, 1.0], [9.0, 9.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))


def test_a_calibrated_probe_says_so_after_it_was_saved(tmp_path: Path) -> None:
    card = Affine(method="platt", scales=(0.5,), offsets=(1.0,))
    made_artefact("binary", calibration=card, abstain=((0.25, 0.75),)).save(tmp_path / "mood")
    loaded = Artefact.load(tmp_path / "mood")
    logits = torch.tensor([[-2.0], [4.0]])
    torch.testing.assert_close(loaded.probabilities(logits), (logits / 2 + 1).sigmoid())
    assert loaded.card.calibration == card


def test_a_card_of_before_calibration_is_read(tmp_path: Path) -> None:
    made_artefact("binary").save(tmp_path / "mood")
    path = tmp_path / "mood" / "card.json"
    card = json.loads(path.read_text())
    for name in ("calibration", "abstain", "conformal", "decisions"):
        assert card.pop(name) is None
    path.write_text(json.dumps(card))
    verdict = Artefact.load(tmp_path / "mood").verdict([0.5])
    assert (verdict.abstained, verdict.prediction_set, verdict.decision) == (None, None, "yes")


def test_a_binary_probe_abstains_in_its_band_and_its_label_stays() -> None:
    probe = made_artefact("binary", thresholds=(0.5,), abstain=((0.4, 0.7),))
    said = [probe.verdict([p]) for p in (0.39, 0.4, 0.69, 0.7)]
    assert [v.abstained for v in said] == [False, True, True, False]
    assert [v.label for v in said] == ["no", "no", "yes", "yes"]
    assert [v.decision for v in said] == ["no", "abstain", "abstain", "yes"]


def test_a_multiclass_probe_abstains_by_the_band_of_the_likeliest_label() -> None:
    bands = ((0.0, 0.9), (0.0, 0.0), (0.0, 0.5))
    assert abstains("multiclass", [0.8, 0.1, 0.1], bands)
    assert not abstains("multiclass", [0.1, 0.8, 0.1], bands)
    assert not abstains("multiclass", [0.25, 0.25, 0.5], bands)


def test_a_multilabel_probe_abstains_if_one_label_is_unsure() -> None:
    bands = ((0.4, 0.6), (0.4, 0.6))
    assert abstains("multilabel", [0.5, 0.9], bands)
    assert not abstains("multilabel", [0.1, 0.9], bands)


def test_a_prediction_set_holds_labels_at_the_limit_and_is_not_empty() -> None:
    lac = Conformal(method="lac", coverage=0.9, limit=0.3)
    assert prediction_set({"a": 0.3, "b": 0.4, "c": 0.29}, lac) == ("a", "b")
    assert prediction_set({"a": 0.2, "b": 0.21, "c": 0.2}, lac) == ("b",)
    recall = Conformal(method="recall", coverage=0.9, limit=0.3)
    assert prediction_set({"a": 0.2, "b": 0.21}, recall) == ()


def test_a_verdict_carries_the_prediction_set_of_the_card() -> None:
    probe = made_artefact("multiclass", conformal={"method": "lac", "coverage": 0.9, "limit": 0.25})
    assert probe.verdict([0.5, 0.3, 0.2]).prediction_set == ("a", "b")


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"calibration": Affine(method="platt", scales=(1.0,) * 2, offsets=(0.0,) * 2)},
            "2 scales",
        ),
        ({"calibration": Affine(method="temperature", scales=(1.0,), offsets=(1.0,))}, "offsets"),
        ({"calibration": {"method": "platt", "scales": (-1.0,), "offsets": (0.0,)}}, "greater"),
        ({"calibration": {"method": "rounding"}}, "rounding"),
        ({"calibration": Isotonic(logits=((1.0, 0.0),), probs=((0.0, 1.0),))}, "do not rise"),
        ({"calibration": Isotonic(logits=((0.0, 1.0),), probs=((0.0, 2.0),))}, "beyond 0 to 1"),
        ({"calibration": Isotonic(logits=((0.0,),), probs=((),))}, "1 logits and 0 prob"),
        ({"abstain": ((0.7, 0.2),)}, "from low to high"),
        ({"abstain": ((0.1, 0.2), (0.1, 0.2))}, "which has 1"),
        ({"conformal": {"method": "recall", "coverage": 0.9, "limit": 0.5}}, "made by lac"),
        ({"conformal": {"method": "lac", "coverage": 1.5, "limit": 0.5}}, "less than 1"),
        ({"conformal": {"method": "lac", "coverage": 0.9, "limit": 0.5, "x": 1}}, "conformal.x"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(facts: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made_artefact("binary", **facts)


def test_a_multiclass_temperature_is_one_number() -> None:
    card = Affine(method="temperature", scales=(1.0, 1.0, 2.0), offsets=(0.0,) * 3)
    with pytest.raises(ConfigError, match="one temperature"):
        made_artefact("multiclass", calibration=card)


def test_an_unknown_key_of_a_calibration_on_disk_is_named(tmp_path: Path) -> None:
    made_artefact("binary", calibration=Affine(method="platt", scales=(1.0,), offsets=(0.0,))).save(
        tmp_path / "p"
    )
    path = tmp_path / "p" / "card.json"
    card = json.loads(path.read_text())
    card["calibration"]["scale"] = 1
    path.write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match=r"calibration\.platt\.scale"):
        Artefact.load(tmp_path / "p")
