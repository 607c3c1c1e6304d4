"""Silhouette coefficients against scikit-learn's, and the laws that any distance obeys."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import silhouette_score
from torch import Tensor

from pillion.errors import ConfigError, DataError, StateError
from pillion.metrics import fisher_ratio, mean_silhouette, silhouette
from pillion.metrics.silhouette import DISTANCES

SKLEARN = {"euclidean": "euclidean", "cosine": "cosine", "squared": "sqeuclidean"}
each_distance = pytest.mark.parametrize("distance", DISTANCES)
ROWS, DIM, CLASSES = 600, 24, 5


def material(generator: torch.Generator, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    centres = torch.randn(CLASSES, DIM, generator=generator) * apart
    return centres[ids] + torch.randn(ROWS, DIM, generator=generator), ids


def reference(states: Tensor, ids: Tensor, distance: str) -> float:
    return silhouette_score(states.double().numpy(), ids.numpy(), metric=SKLEARN[distance])


def shapes(states: Tensor, ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """States that are hard for fp32 in different ways."""
    tight = torch.randn(CLASSES, DIM, generator=generator)[ids]
    doubled = states.clone()
    doubled[: ROWS // 2] = doubled[0]
    massive = states.clone()
    massive[:, 3] += 1e3 * torch.randn(ROWS, generator=generator).exp()
    return {
        "plain": states,
        "a large common offset": states + 1000 * torch.randn(DIM, generator=generator),
        "tight classes": tight + 1e-3 * states,
        "classes of nearly equal rows": tight + 1e-6 * states,
        "half of the rows equal": doubled,
        "one massive component": massive,
        "tight classes and an offset": tight + 1e-2 * states + 100,
    }


@each_distance
def test_it_agrees_with_scikit_learn_on_easy_and_on_hard_states(
    distance: str, generator: torch.Generator
) -> None:
    states, ids = material(generator)
    for name, hard in shapes(states, ids, generator).items():
        got = mean_silhouette(hard, ids, distance)
        assert got == pytest.approx(reference(hard, ids, distance), abs=1e-5), name


def test_without_centring_fp32_is_clearly_wrong(generator: torch.Generator) -> None:
    """The negative control: these states do need the care that is taken."""
    states, ids = material(generator)
    far = states + 1000
    counts = ids.bincount()
    careless = silhouette._pair_sums(far, silhouette._membership(ids, counts, torch.float32))
    wrong = silhouette._mean_coefficient(careless, ids, counts)
    assert abs(wrong - reference(far, ids, "euclidean")) > 1e-3


@each_distance
def test_many_tiles_give_the_same_as_one(
    distance: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, ids = material(generator)
    whole = mean_silhouette(states, ids, distance)
    monkeypatch.setattr(silhouette, "TILE_ROWS", 64)
    monkeypatch.setattr(silhouette, "TILE_COLUMNS", 100)
    assert mean_silhouette(states, ids, distance) == pytest.approx(whole, abs=1e-7)


@each_distance
def test_classes_of_one_row_count_zero(distance: str, generator: torch.Generator) -> None:
    states, ids = material(generator)
    ids[:3] = torch.tensor([90, 91, 92])
    assert mean_silhouette(states, ids, distance) == pytest.approx(
        reference(states, ids, distance), abs=1e-6
    )


@each_distance
def test_order_of_rows_names_of_classes_and_scale_change_nothing(
    distance: str, generator: torch.Generator
) -> None:
    states, ids = material(generator)
    wanted = mean_silhouette(states, ids, distance)
    order = torch.randperm(ROWS, generator=generator)

    assert mean_silhouette(states[order], ids[order], distance) == pytest.approx(wanted, abs=1e-6)
    assert mean_silhouette(states, 7 - 3 * ids, distance) == pytest.approx(wanted, abs=1e-7)
    assert mean_silhouette(states * 64, ids, distance) == pytest.approx(wanted, abs=1e-6)
    assert mean_silhouette(states, ids[order], distance) != pytest.approx(wanted, abs=1e-3)


@each_distance
def test_a_rotation_changes_nothing_and_a_move_only_cosines(
    distance: str, generator: torch.Generator
) -> None:
    states, ids = material(generator)
    wanted = mean_silhouette(states, ids, distance)
    turn, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))

    assert mean_silhouette(states @ turn, ids, distance) == pytest.approx(wanted, abs=1e-6)
    moved = mean_silhouette(states + 3, ids, distance)
    if distance == "cosine":
        assert moved != pytest.approx(wanted, abs=1e-3)
    else:
        assert moved == pytest.approx(wanted, abs=1e-6)


@each_distance
def test_what_is_undefined_is_none(distance: str) -> None:
    states = torch.randn(6, 4)
    assert mean_silhouette(states, torch.zeros(6, dtype=torch.long), distance) is None
    assert mean_silhouette(states, torch.arange(6), distance) is None
    assert mean_silhouette(torch.zeros(6, 4), torch.tensor([0, 0, 0, 1, 1, 1]), distance) == 0


def test_what_cannot_be_measured_is_refused() -> None:
    states, ids = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ConfigError, match="Unknown distance 'manhattan'"):
        mean_silhouette(states, ids, "manhattan")
    with pytest.raises(DataError, match="3 class ids for 4 rows"):
        mean_silhouette(states, ids[:3])
    with pytest.raises(StateError, match="not finite"):
        mean_silhouette(states / 0, ids)


def test_fishers_ratio_is_that_of_its_formula(generator: torch.Generator) -> None:
    states, ids = material(generator)
    wide = states.double()
    means = torch.stack([wide[ids == c].mean(0) for c in range(CLASSES)])
    between = ((means[ids] - wide.mean(0)) ** 2).sum()
    within = ((wide - means[ids]) ** 2).sum()

    assert fisher_ratio(states, ids) == pytest.approx(float(between / within))
    assert fisher_ratio(states, torch.zeros_like(ids)) is None
    flat = torch.tensor([[1.0, 2.0], [1.0, 2.0], [4.0, 0.0], [4.0, 0.0]])
    assert fisher_ratio(flat, torch.tensor([0, 0, 1, 1])) is None


@each_distance
def test_classes_of_two_rows_have_one_other_row_each(
    distance: str, generator: torch.Generator
) -> None:
    states = torch.randn(12, 5, generator=generator)
    ids = torch.arange(12) // 2
    assert mean_silhouette(states, ids, distance) == pytest.approx(
        reference(states, ids, distance), abs=1e-6
    )


def test_states_whose_sum_does_not_fit_their_type_are_finite_all_the_same(
    generator: torch.Generator,
) -> None:
    states, ids = material(generator)
    large = (states.abs() * 1000 + 1000).half()
    assert torch.isfinite(large).all() and not torch.isfinite(large.sum())
    assert mean_silhouette(large, ids) == pytest.approx(
        reference(large.float(), ids, "euclidean"), abs=1e-5
    )


def test_a_zero_row_is_half_away_from_all_others_by_cosine(generator: torch.Generator) -> None:
    states, ids = material(generator)
    states, ids = states[:40], ids[:40]
    states[7] = 0
    length = states.norm(dim=1, keepdim=True)
    unit = states / length.clamp(min=1e-9)
    apart = (1 - unit @ unit.T).clamp(min=0)
    apart[7] = apart[:, 7] = 0.5
    apart.fill_diagonal_(0)
    wanted = silhouette_score(apart.double().numpy(), ids.numpy(), metric="precomputed")
    assert mean_silhouette(states, ids, "cosine") == pytest.approx(wanted, abs=1e-5)
