"""The bundled sets: large enough, labelled, and no held-out row is a training row in disguise."""

from __future__ import annotations

from collections import Counter

import pytest

from pillion.data import flat_text
from pillion.errors import ConfigError
from pillion.examples import NAMES, SPLITS, load_example

MAX_OVERLAP = 0.5


def words(text: str) -> frozenset[str]:
    plain = "".join(c if c.isalnum() else " " for c in text.lower())
    return frozenset(plain.split())


def five_grams(text: str) -> frozenset[str]:
    plain = " ".join(text.lower().split())
    return frozenset(plain[i : i + 5] for i in range(max(1, len(plain) - 4)))


def jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / len(one | two)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_has_hundreds_of_rows_and_all_labels_on_both_sides(name: str) -> None:
    train, held_out = (load_example(name, split) for split in SPLITS)
    assert len(train) + len(held_out) >= 300
    assert len(held_out) >= 60
    assert train.labels is not None and held_out.labels is not None
    assert set(train.labels) == set(held_out.labels)
    assert min(Counter(held_out.labels).values()) >= 5
    assert min(Counter(train.labels).values()) >= 15
    assert train.sha256 == held_out.sha256


def test_the_sets_have_the_labels_that_they_are_named_for() -> None:
    assert set(load_example("safety", "train").labels or ()) == {"safe", "unsafe"}
    assert set(load_example("sentiment", "train").labels or ()) == {
        *("negative", "neutral", "positive")
    }
    assert len(set(load_example("intent", "train").labels or ())) >= 8
    assert set(load_example("answers", "train").labels or ()) == {"safe", "unsafe"}


def test_the_answers_are_four_hundred_prompts_with_their_responses() -> None:
    rows = [text for split in SPLITS for text in load_example("answers", split).texts]
    assert len(rows) >= 400
    assert {tuple(turn.role for turn in row) for row in rows if not isinstance(row, str)} == {
        ("user", "assistant")
    }


def test_a_prompt_tells_little_about_its_answer() -> None:
    """Otherwise a probe of answers could learn to read the question."""
    labels: dict[str, set[object]] = {}
    for split in SPLITS:
        rows = load_example("answers", split)
        assert rows.labels is not None
        for text, label in zip(rows.texts, rows.labels, strict=True):
            assert not isinstance(text, str)
            labels.setdefault(text[0].content, set()).add(label)
    both = sum(len(found) == 2 for found in labels.values())
    assert both / len(labels) > 0.8


def test_risky_words_stand_in_safe_answers_too() -> None:
    rows = load_example("answers", "train")
    said = [" " + flat_text(text).lower() for text in rows.texts]
    labelled = list(zip(said, rows.labels or (), strict=True))
    for word in (" poison", " kill", " hurt", " police", " drug", " gun", " i'm sorry", " fire"):
        assert any(word in text and label == "safe" for text, label in labelled), word


@pytest.mark.parametrize("name", NAMES)
def test_no_text_comes_twice(name: str) -> None:
    read = [text for split in SPLITS for text in load_example(name, split).texts]
    texts = [" ".join(flat_text(text).lower().split()) for text in read]
    assert not [text for text, count in Counter(texts).items() if count > 1]


@pytest.mark.parametrize("parts_of", [words, five_grams])
@pytest.mark.parametrize("name", NAMES)
def test_no_held_out_row_is_a_near_duplicate_of_a_training_row(name: str, parts_of) -> None:
    train, held_out = (
        [flat_text(text) for text in load_example(name, split).texts] for split in SPLITS
    )
    known = [parts_of(text) for text in train]
    for text in held_out:
        parts = parts_of(text)
        nearest = max(range(len(known)), key=lambda i: jaccard(parts, known[i]))
        assert jaccard(parts, known[nearest]) < MAX_OVERLAP, (text, train[nearest])


def test_unknown_names_and_splits_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'intent'"):
        load_example("intents", "train")
    with pytest.raises(ConfigError, match="Did you mean 'heldout'"):
        load_example("intent", "held-out")
