"""Texts with a needle: one in each, and nothing else that tells the label."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.needle_texts import COMMON, NEGATIONS, NeedleSettings, needle_rows

from pillion.errors import ConfigError

NEEDLES = {
    "plain": ["the delivery contains keys"],
    "negated": [f"the delivery contains {word} keys" for word in NEGATIONS],
}

every = pytest.mark.parametrize(
    "settings",
    [
        NeedleSettings(512, 0.9),
        NeedleSettings(128, 0.2),
        NeedleSettings(128, 0.95, elsewhere=True),
        NeedleSettings(5, 0.0),
        NeedleSettings(200, 1.0),
    ],
    ids=str,
)


@every
def test_every_text_has_one_needle_that_its_label_says(settings: NeedleSettings) -> None:
    rows = needle_rows(40, settings)
    assert rows.labels is not None
    for text, label in zip(rows.texts, rows.labels, strict=True):
        assert isinstance(label, str)
        assert sum(text.count(needle) for needle in NEEDLES[label]) == 1
        assert text.count("delivery") == text.count("keys") == 1


@every
def test_texts_have_the_length_asked_for_and_labels_are_balanced(settings: NeedleSettings) -> None:
    rows = needle_rows(40, settings)
    assert {len(text.split()) for text in rows.texts} <= {
        settings.num_words,
        max(settings.num_words, 4),
    }
    assert Counter(rows.labels) == {"plain": 20, "negated": 20}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.95])
def test_the_share_of_distractors_is_the_one_asked_for(share: float) -> None:
    rows = needle_rows(10, NeedleSettings(512, share))
    for text in rows.texts:
        found = sum(word in COMMON for word in text.split()) / 512
        assert abs(found - share) < 0.02


def test_only_the_needle_negates_unless_asked_for() -> None:
    def counts(elsewhere: bool, label: str) -> list[int]:
        rows = needle_rows(40, NeedleSettings(256, 0.8, elsewhere))
        assert rows.labels is not None
        return [
            sum(word in NEGATIONS for word in text.split())
            for text, found in zip(rows.texts, rows.labels, strict=True)
            if found == label
        ]

    assert set(counts(False, "plain")) == {0}
    assert set(counts(False, "negated")) == {1}
    assert min(counts(True, "plain")) > 1
    assert max(counts(True, "plain")) > min(counts(True, "negated"))


def test_needles_lie_anywhere() -> None:
    rows = needle_rows(400, NeedleSettings(100, 0.9))
    places = [text.split().index("delivery") for text in rows.texts]
    assert min(places) < 10
    assert max(places) > 85


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    settings = NeedleSettings(64, 0.5)
    assert needle_rows(4, settings, 3).texts == needle_rows(4, settings, 3).texts
    assert needle_rows(4, settings, 3).texts != needle_rows(4, settings, 4).texts


@pytest.mark.parametrize(
    ("options", "words"),
    [({"distractors": 1.5}, "a share from 0 to 1"), ({"num_words": 3}, "give more")],
)
def test_settings_that_cannot_be_met_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NeedleSettings(**options)  # type: ignore[arg-type]
