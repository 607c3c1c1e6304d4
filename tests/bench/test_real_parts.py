"""Pieces of the study: changed texts, duplicates, closed forms, nested draws."""

from __future__ import annotations

import base64
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pillion.backends.fake import FakeBackend
from pillion.core import Scope, Turn
from pillion.data import LabelSpace, Rows, said_in
from pillion.data.changes import PERTURBATIONS, TEMPLATES, perturbed
from pillion.errors import DataError
from pillion.extract import LiveSource
from pillion.runtime import encode_rows
from pillion_bench.baselines.closed_form import ClosedForm, DifferenceOfMeans, Lda, Ridge
from pillion_bench.problem import Part, Problem, columns
from pillion_bench.real.duplicates import conflicts, find_duplicates, within
from pillion_bench.real.sets import balanced_rows, long_sets, nested_rows, other_set, perturbed_sets
from pillion_bench.real.texts import long_texts
from pillion_bench.states import States
from pillion_bench.suite import DataSpec

TEXTS = ["Please tell me a story about the sea.", "ok", "Ünïcode 危険 stays!", "a"]


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_changed_text_is_another_one_and_the_same_seed_changes_it_alike(name: str) -> None:
    once, again = (perturbed(name, TEXTS, seed=3) for _ in range(2))
    assert once == again
    assert once[0] != TEXTS[0] and all(text.strip() for text in once)


def test_each_change_does_what_it_is_called() -> None:
    text = TEXTS[0]
    assert perturbed("upper case", [text], 0) == [text.upper()]
    assert perturbed("leetspeak", ["toast is it"], 0) == ["70457 15 17"]
    assert perturbed("spaces in words", ["tell me stories"], 0) == ["te ll me sto ries"]
    assert base64.b64decode(perturbed("base64", [text], 0)[0]).decode() == text
    assert perturbed("polite template", [text], 0)[0] in [t.format(text) for t in TEMPLATES]
    changed = perturbed("typos", [text], 0)[0]
    assert sum(a != b for a, b in zip(changed, text, strict=False)) > 0 and "story" in text


def test_a_needle_stands_in_its_place_and_its_pair_lacks_nothing_else() -> None:
    filler = [f"benign words number {i} go on and on" for i in range(50)]
    found = long_texts(["NEEDLE one", "NEEDLE two", "NEEDLE three"], filler, (60, 200), seed=0)
    assert len(found) == 12
    for holder, plain in zip(found[::2], found[1::2], strict=True):
        assert holder.has_needle and not plain.has_needle
        pieces, others = holder.text.split("\n\n"), plain.text.split("\n\n")
        assert [p for p in pieces if "NEEDLE" not in p] == others
        at = next(i for i, p in enumerate(pieces) if "NEEDLE" in p)
        assert {"start": at == 0, "middle": 0 < at < len(others), "end": at == len(others)}[
            holder.place
        ]
        assert 0.8 * holder.words <= len(plain.text.split()) <= 1.5 * holder.words


def test_duplicates_are_found_word_for_word_but_for_case_and_nearly() -> None:
    train = ["How do I open the old wooden door?", "Another text altogether", "third one here"]
    test = [
        "How do I open the old wooden door?",
        "how do I   open the OLD wooden door?",
        "How do I open the old wooden doors?",
        "What is the weather in Oslo like?",
    ]
    found = find_duplicates(train, test)
    assert found.counts() == {"exact": 1, "normal": 2, "near": 3}
    assert found.partners[:3].tolist() == [0, 0, 0]


def test_repeated_texts_and_conflicting_labels_are_counted() -> None:
    assert within(["a b", "A  b", "c"]) == 1
    assert conflicts(["a b", "A  b", "c", "c"], ["x", "y", "z", "z"]) == 1


def pooled(classes: int, rows: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """States of which layer 1 alone tells the label."""
    rng = np.random.default_rng(0)
    ids = rng.integers(classes, size=rows)
    states = rng.normal(size=(rows, 3, 16)).astype(np.float32)
    states[:, 1] += 6 * np.eye(16, dtype=np.float32)[ids]
    return states, ids


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("head", [DifferenceOfMeans(1), Lda(1), Ridge(np.arange(3))])
def test_closed_forms_tell_separable_classes_apart_on_new_rows(
    head: ClosedForm, classes: int
) -> None:
    states, ids = pooled(classes)
    outputs = 1 if classes == 2 else classes
    scores = head.fit(states[:80], columns(ids[:80], outputs)).scores(states[80:])
    assert scores.shape == (40, outputs)
    if classes == 2:
        assert scores[ids[80:] == 1].min() > scores[ids[80:] == 0].max()
    else:
        assert (scores.argmax(1) == ids[80:]).mean() > 0.97


def test_lda_scores_a_label_that_it_never_saw_below_all_others() -> None:
    states, ids = pooled(4)
    seen = ids != 2
    scores = Lda(1).fit(states[seen], columns(ids[seen], 4)).scores(states)
    assert scores.shape == (120, 4) and (scores.argmin(1) == 2).all()


def test_draws_of_training_rows_are_nested_and_hold_every_label() -> None:
    targets = np.array([0] * 90 + [1] * 10)
    draws = nested_rows(targets, 8, seed=1)
    assert [len(rows) for rows in draws] == [8, 16, 32, 64, 100]
    for smaller, larger in pairwise(draws):
        assert set(smaller) < set(larger)
    assert all((targets[rows] == 1).sum() >= 2 for rows in draws)
    assert (targets[draws[3]] == 1).mean() < 0.2


def test_balanced_rows_take_turns_until_a_label_is_used_up() -> None:
    targets = np.array([0] * 50 + [1] * 5)
    rows = balanced_rows(targets, 20, seed=0)
    assert len(rows) == len(set(rows)) == 20
    assert (targets[rows] == 1).sum() == 5
    assert len(balanced_rows(targets, 1000, seed=0)) == 55


def test_two_labels_of_another_source_are_matched_by_their_meaning() -> None:
    space = LabelSpace.of(["non-toxic", "toxic"])
    rows = Rows.of(["a", "b"], ["safe", "flagged"], "other.csv")
    assert other_set("other", rows, space).targets.tolist() == [0, 1]
    three = Rows.of(["a", "b", "c"], ["x", "y", "z"], "other.csv")
    with pytest.raises(DataError, match="never seen"):
        other_set("other", three, space)


def test_changed_sets_remember_the_rows_that_they_were_made_of() -> None:
    texts = [f"text number {i}" for i in range(30)]
    targets = np.arange(30) % 2
    for one in perturbed_sets(texts, targets, 10, seed=0):
        assert len(one) == 10
        np.testing.assert_array_equal(one.targets, targets[one.rows])


def test_a_test_without_short_positive_texts_has_no_long_sets() -> None:
    long = ["word " * 100] * 4
    assert long_sets(long, np.array([0, 0, 1, 1]), (60,), 2, 0) == []
    short = ["a benign text", "another one", "the needle"]
    (one,) = long_sets(short, np.array([0, 0, 1]), (60,), 5, 0)
    assert one.targets.tolist() == [1, 0] and one.groups == ("start", "without")


TALK = (Turn("system", "Be brief."), Turn("user", "a question"), Turn("assistant", "an answer"))
READ: dict[Scope, set[int]] = {"all": {0, 1, 2}, "last-user": {1}, "user": {1}, "response": {2}}


@pytest.mark.parametrize("scope", READ)
def test_the_turns_that_are_read_are_changed_and_no_others(scope: Scope) -> None:
    for one in perturbed_sets([TALK] * 4, np.array([0, 1, 0, 1]), 4, 0, scope):
        changed = {
            place
            for text in one.texts
            for place, (new, old) in enumerate(zip(text, TALK, strict=True))
            if new != old
        }
        assert changed <= READ[scope]
        assert one.name != "upper case" or changed == READ[scope]
        assert one.said == tuple(said_in(text, scope) for text in one.texts)


def test_long_texts_stand_in_benign_conversations_where_one_turn_is_read() -> None:
    said = ["a benign text", "another one", "the needle"]
    talks = [(Turn("user", f"q {i}"), Turn("assistant", text)) for i, text in enumerate(said)]
    targets = np.array([0, 0, 1])
    (one,) = long_sets(talks, targets, (60,), 5, 0, "response")
    (alone,) = long_sets(said, targets, (60,), 5, 0)
    assert one.said == alone.said == alone.texts and one.targets.tolist() == [1, 0]
    assert [text[0] for text in one.texts] == [Turn("user", "q 0")] * 2
    assert long_sets(talks, targets, (60,), 5, 0, "all") == []


def test_a_row_without_a_turn_of_the_scope_is_named() -> None:
    space = LabelSpace.of(["non-toxic", "toxic"])
    rows = Rows.of([TALK, "alone"], ["toxic", "non-toxic"], "other.csv")
    assert other_set("other", rows, space, scope="user").said == ("a question", "alone")
    with pytest.raises(DataError, match="other, row 2: no turn of the assistant"):
        other_set("other", rows, space, scope="response")


@pytest.mark.parametrize(
    ("scope", "layers"), [("all", None), ("all", (0, 1)), ("last-user", None)], ids=str
)
def test_the_vocabulary_reads_the_last_state_of_the_whole_row(
    scope: Scope, layers: Any, tmp_path: Path
) -> None:
    """The bug: with some layers, MULI took the last of them for the model's last one."""
    backend = FakeBackend()
    texts = [TALK, (*TALK, Turn("user", "and then?")), "alone"]
    spec = DataSpec(train="", test="", template="chat", scope=scope, layers=layers)
    targets, rows = np.zeros(3, dtype=int), np.arange(3)
    kept, live = (
        Part(name, tuple(said_in(text, scope) for text in texts), targets, name, rows)
        for name in ("train", "test")
    )
    stores = {part.store: tuple(texts) for part in (kept, live)}
    space = LabelSpace.of(["x", "y"])
    problem = Problem("talks", spec, space, kept, kept, live, stores=stores, files=())
    tokens = encode_rows(backend, texts, "chat")
    last = LiveSource(backend, tokens, (backend.identity.num_layers,))
    wanted = [last.read_batch([row])[0][0, 0, -1].float().tolist() for row in range(3)]
    lengths = [sum(map(len, row.ranges(scope))) for row in tokens]
    with States(backend, problem, tmp_path, say=lambda _: None, live={"test"}) as states:
        for part in (kept, live):
            source = states.source(part)
            assert list(source.lengths) == lengths
            source.read_batch([1, 2])  # the rest is read where it is asked for
            np.testing.assert_allclose(states.last_states(part), wanted, rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_kept_are_pooled_while_they_are_read(tmp_path: Path) -> None:
    """One pass of the model serves networks, heads in closed form and the vocabulary's head."""
    backend, passes = FakeBackend(), 0
    texts = ("one text", "another one", "and a third")
    targets, rows = np.zeros(3, dtype=int), np.arange(3)
    kept, live = (Part(name, texts, targets, name, rows) for name in ("train", "test"))
    spec = DataSpec(train="", test="", template="raw")
    stores = {part.store: texts for part in (kept, live)}
    space = LabelSpace.of(["x", "y"])
    problem = Problem("live", spec, space, kept, kept, live, stores=stores, files=())
    plain = backend.forward

    def counted(*arguments: Any, **how: Any) -> Any:
        nonlocal passes
        passes += 1
        return plain(*arguments, **how)

    with States(backend, problem, tmp_path, say=lambda _: None, live={"test"}) as states:
        wanted = states.pooled(kept, "mean-rms"), states.last_states(kept)
        backend.forward = counted  # type: ignore[method-assign]
        states.source(live).read_batch([2, 0, 1])
        once = passes
        got = states.pooled(live, "mean-rms"), states.last_states(live)
        assert passes == once > 0
    assert not (tmp_path / "test").exists()
    for mine, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)
