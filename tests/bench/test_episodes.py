"""Which rows an episode holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mood import problem_of

from pillion.data import LabelSpace
from pillion.errors import ConfigError, DataError
from pillion_bench.episodes import EpisodeSettings, episode_problem
from pillion_bench.problem import Problem

NAMES = ("fine", "poor", "so")


@pytest.fixture
def problem(tmp_path: Path) -> Problem:
    return problem_of(tmp_path, NAMES, 120, locked=False)


def learnt(problem: Problem) -> np.ndarray:
    return np.sort(np.concatenate([problem.train.row_ids, problem.validation.row_ids]))


def test_an_episode_has_so_many_rows_of_each_label_and_is_the_same_again(problem: Problem) -> None:
    settings = EpisodeSettings(shots=(2, 8))
    for shots in (2, 8):
        found, again, other = (episode_problem(problem, settings, shots, i) for i in (0, 0, 1))
        targets = np.concatenate([found.train.targets, found.validation.targets])
        assert np.bincount(targets).tolist() == [shots] * 3
        assert set(found.validation.targets) == {0, 1, 2}
        assert set(learnt(found)) <= set(problem.train.row_ids)
        assert learnt(found).tolist() == learnt(again).tolist() != learnt(other).tolist()
        for part in (found.train, found.validation):
            texts = problem.stores[part.store]
            assert all(
                texts[row] == text for row, text in zip(part.row_ids, part.texts, strict=True)
            )


def test_fewer_rows_are_some_of_more_and_labels_and_questions_stay(problem: Problem) -> None:
    settings = EpisodeSettings(shots=(2, 8), ways=2)
    few, many = (episode_problem(problem, settings, shots, 3) for shots in (2, 8))
    assert set(learnt(few)) < set(learnt(many))
    assert few.space == many.space and len(few.space.names) == 2
    assert few.test is not None and many.test is not None
    assert few.test.texts == many.test.texts


def test_an_episode_asks_about_its_own_labels_alone_by_their_own_ids(problem: Problem) -> None:
    drawn = {
        episode_problem(problem, EpisodeSettings(shots=(2,), ways=2), 2, seed).space.names
        for seed in range(12)
    }
    assert len(drawn) == 3
    found = episode_problem(problem, EpisodeSettings(shots=(2,), ways=2), 2, 5)
    assert found.test is not None
    for part in found.parts:
        for text, target in zip(part.texts, part.targets, strict=True):
            name = found.space.names[target]
            assert {"fine": "good", "poor": "broke", "so": "neither"}[name] in text
    held = problem.validation.row_ids
    assert set(found.test.row_ids) <= set(held) and found.test.store == problem.validation.store


def test_a_row_of_several_labels_counts_for_each_of_them(problem: Problem) -> None:
    rng = np.random.default_rng(0)
    space = LabelSpace(NAMES, "multilabel")
    parts = {
        name: replace(
            getattr(problem, name),
            targets=(rng.random((len(getattr(problem, name)), 3)) < (0.6, 0.3, 0.2)).astype(
                np.float32
            ),
        )
        for name in ("train", "validation")
    }
    several = replace(problem, space=space, **parts)
    found = episode_problem(several, EpisodeSettings(shots=(4,)), 4, 0)
    targets = np.concatenate([found.train.targets, found.validation.targets])
    assert (targets.sum(0) >= 4).all()
    assert (targets.sum(1) == 0).sum() == 4
    # Each label's rows apart would be twelve, and four have none.
    assert len(targets) < 16


def test_more_rows_than_a_label_has_are_refused_by_its_name(problem: Problem) -> None:
    fewest = NAMES[int(np.bincount(problem.train.targets).argmin())]
    with pytest.raises(DataError, match=f"Label '{fewest}' has .* wants 60 of each label"):
        episode_problem(problem, EpisodeSettings(shots=(2, 60)), 2, 0)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"count": 1}, "Got 1 episodes; give two or more"),
        ({"shots": ()}, r"Got \(\) rows a label"),
        ({"shots": (4, 1)}, "one row teaches and one chooses"),
        ({"ways": 1}, "Got 1 labels an episode; give two or more"),
    ],
)
def test_episodes_that_would_say_nothing_are_refused(facts: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        EpisodeSettings(**facts)  # type: ignore[arg-type]


def test_more_labels_than_there_are_or_than_have_the_rows_are_refused(problem: Problem) -> None:
    with pytest.raises(ConfigError, match="wants 4 labels and there are 3"):
        episode_problem(problem, EpisodeSettings(shots=(2,), ways=4), 2, 0)
    most = int(np.bincount(problem.train.targets).max())
    with pytest.raises(DataError, match=f"Only 1 labels have {most} training rows.*wants 2 such"):
        episode_problem(problem, EpisodeSettings(shots=(most,), ways=2), most, 0)
