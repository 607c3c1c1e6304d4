"""Why a verdict is what it is: contributions sum to the logit that the verdict was made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pillion import Explanation, LanguageModel, explain
from pillion.backends.fake import FakeBackend
from pillion.errors import DataError, MismatchError
from pillion.evals import layer_profiles
from pillion.probe import Artefact
from pillion.probe.untrained import untrained
from pillion.runtime import encode_rows
from pillion.runtime.explanation import contributions
from tiny_models import SMALL

TEXT = "A short text, with ümlauts."
EXACT = ("gate", "gate-paper", "mha", "mha-causal", "pooling", "concat")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(FakeBackend())


def artefact(
    model: LanguageModel, kind: str, task: str = "multiclass", labels: int = 3, **options: Any
) -> Artefact:
    settings = SMALL.get(kind, {}) | options
    facts = {"task": task, "labels": tuple("abc"[:labels]), "template": "chat"}
    return untrained("p", model.backend.identity, kind, (0, 1, 3), settings, noise=3, **facts)


@pytest.mark.parametrize("kind", EXACT)
def test_contributions_and_the_bias_are_the_logits_of_the_very_verdict(
    model: LanguageModel, kind: str
) -> None:
    probe = artefact(model, kind)
    found = explain(model, probe, TEXT)
    total = found.contributions.sum((0, 1)) + np.array(found.rest)

    assert found.exact and found.contributions.shape == (3, len(found.tokens), 3)
    np.testing.assert_allclose(total, found.logits, atol=1e-4)
    np.testing.assert_allclose(found.rest, probe.network.bias.detach(), atol=1e-4)
    scored = model.score([TEXT], [probe])[0]["p"]
    assert found.verdict.probs == pytest.approx(scored.probs, abs=1e-5)
    assert found.verdict.label == scored.label


def test_without_one_token_the_sum_is_clearly_another(model: LanguageModel) -> None:
    found = explain(model, artefact(model, "gate"), TEXT)
    most = np.abs(found.contributions).sum((0, 2)).argmax()
    rest = np.delete(found.contributions, most, axis=1).sum((0, 1)) + np.array(found.rest)
    assert np.abs(rest - np.array(found.logits)).max() > 1e-3


@pytest.mark.parametrize("kind", ["gate-mlp", "attention"])
def test_other_probes_are_marked_as_approximate_and_agree_with_a_small_step(
    model: LanguageModel, kind: str
) -> None:
    """Gradient x input: scaling all states by 1 + e moves the logit by e times their sum."""
    probe = artefact(model, kind)
    found = explain(model, probe, TEXT)

    assert not found.exact and found.method == "gradient x input"
    total = found.contributions.sum((0, 1)) + np.array(found.rest)
    np.testing.assert_allclose(total, found.logits, atol=1e-4)
    scored = model.score([TEXT], [probe])[0]["p"]
    assert found.verdict.probs == pytest.approx(scored.probs, abs=1e-5)
    assert np.abs(found.contributions).max() > 1e-3


def test_tokens_join_to_the_text_and_special_ones_are_empty(model: LanguageModel) -> None:
    found = explain(model, artefact(model, "gate"), TEXT)
    assert "".join(found.tokens) == TEXT
    assert found.tokens[0] == found.tokens[-1] == ""
    assert len(found.tokens) == len(found.token_ids)


def test_a_batch_padded_on_the_left_gives_what_each_row_gives(model: LanguageModel) -> None:
    probe = artefact(model, "gate")
    rows = encode_rows(model.backend, ["a", "some more words", "two"], "chat")
    logits, each = contributions(model, probe, rows)

    for place, row in enumerate(rows):
        alone_logits, alone = contributions(model, probe, [row])
        torch.testing.assert_close(logits[place], alone_logits[0])
        torch.testing.assert_close(each[:, place, each.shape[2] - len(row) :], alone[:, 0])
        assert not each[:, place, : each.shape[2] - len(row)].any()


def test_a_binary_verdict_has_one_logit_and_the_negative_label_sees_it_turned(
    model: LanguageModel,
) -> None:
    found = explain(model, artefact(model, "gate", "binary", 2), TEXT)
    assert found.labels == ("b",) and len(found.logits) == 1
    np.testing.assert_array_equal(found.to("a"), -found.to("b"))


def test_an_explanation_is_json_with_every_number(model: LanguageModel) -> None:
    found = explain(model, artefact(model, "gate"), TEXT)
    kept = json.loads(json.dumps(found.as_json(), allow_nan=False))

    assert isinstance(found, Explanation)
    assert kept["tokens"] == list(found.tokens) and kept["exact"] is True
    np.testing.assert_allclose(kept["contributions"]["b"], found.contributions[..., 1], atol=1e-6)
    assert kept["logits"]["c"] == found.logits[2]


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_what_is_said_for_a_label_sums_to_its_logit_in_the_same_sense(
    model: LanguageModel, task: str
) -> None:
    found = explain(model, artefact(model, "gate", task, 2 if task == "binary" else 3), TEXT)
    logits = dict(zip(found.labels, found.logits, strict=True))
    for label in found.verdict.probs:
        assert found.logit(label) == pytest.approx(
            found.to(label).sum() + found.rest_of(label), abs=1e-4
        )
    mean = sum(logits.values()) / 3 if task == "multiclass" else 0
    assert found.logit("b") == pytest.approx(logits["b"] - mean, abs=1e-5)


def test_what_cannot_be_explained_is_refused(model: LanguageModel) -> None:
    probe = artefact(model, "gate")
    with pytest.raises(DataError, match="empty"):
        explain(model, probe, "  ")
    with pytest.raises(MismatchError):
        explain(LanguageModel(FakeBackend(seed=1)), probe, TEXT)


@pytest.mark.parametrize(("task", "labels"), [("binary", 2), ("multiclass", 3), ("multilabel", 3)])
def test_profiles_average_what_layers_added_to_right_and_wrong_items(
    model: LanguageModel, task: str, labels: int
) -> None:
    probe = artefact(model, "gate", task, labels)
    texts = [f"text number {i} {'x' * (i % 5)}" for i in range(12)]
    tokens = encode_rows(model.backend, texts, "chat")
    ids = np.arange(12) % labels
    targets = np.eye(3, dtype=np.float32)[ids] if task == "multilabel" else ids
    found = layer_profiles(model, probe, tokens, targets)

    classes = found["classes"]
    assert found["layers"] == [0, 1, 3] and found["exact"]
    rows = {name: [one[k]["rows"] for k in ("correct", "wrong")] for name, one in classes.items()}
    assert {name: sum(two) for name, two in rows.items()} == dict.fromkeys(
        "abc"[:labels], 12 // labels
    )
    told = model.score(texts, [probe])
    for label, name in enumerate("abc"[:labels]):
        own = [i for i in range(12) if ids[i] == label]
        right = [i for i in own if name in told[i]["p"].labels]
        assert rows[name][0] == len(right)
        if right:
            each = [explain(model, probe, texts[i]).contributions.sum(1) for i in right]
            if task == "multiclass":
                each = [one - one.mean(1, keepdims=True) for one in each]
            sign = -1 if task == "binary" and label == 0 else 1
            column = 0 if task == "binary" else label
            wanted = np.mean([sign * one[:, column] for one in each], axis=0)
            np.testing.assert_allclose(classes[name]["correct"]["to_true"], wanted, atol=1e-5)


def test_pictures_and_page_are_written(model: LanguageModel, tmp_path: Path) -> None:
    from pillion.report.explanation import explanation_page, plot_explanation, plot_profiles

    text = "</script><b>$bold$</b>\n" + "word " * 200
    found = explain(model, artefact(model, "gate"), text[:400])
    plot_explanation(found.as_json(), "a", tmp_path / "heat.png")
    tokens = encode_rows(model.backend, ["one", "two", "three"], "chat")
    profiles = layer_profiles(model, artefact(model, "gate"), tokens, np.arange(3))
    plot_profiles(profiles, tmp_path / "profiles.png")
    page = explanation_page(found.as_json())

    assert sorted(p.name for p in tmp_path.iterdir()) == ["heat.png", "profiles.png"]
    assert page.count("</script>") == 2 and "__DATA__" not in page
    assert "http" not in page
