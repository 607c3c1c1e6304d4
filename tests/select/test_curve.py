"""The shape of a curve."""

from __future__ import annotations

from pillion.select.curve import inflections, relative_changes


def test_changes_are_shares_of_the_range_whatever_the_scale_and_the_offset() -> None:
    curve = [0.0, 1.0, 4.0, 2.0]
    assert relative_changes(curve) == [None, 0.25, 0.75, -0.5]
    assert relative_changes([10 * v - 7 for v in curve]) == [None, 0.25, 0.75, -0.5]
    assert relative_changes([3.0, 3.0]) == [None, 0.0]


def test_a_place_where_the_slope_changes_is_an_inflection_point() -> None:
    assert inflections([0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0]) == [3]
    assert inflections([0.0, 0.0, 5.0, 0.0, 0.0]) == [2]
    assert inflections([0.0, 4.0, 4.0, 4.0, 8.0]) == [1, 3]


def test_a_straight_or_short_or_nearly_straight_curve_has_none() -> None:
    assert inflections([0.0, 1.0, 2.0, 3.0, 4.0]) == []
    assert inflections([1.0, 1.0, 1.0]) == []
    assert inflections([0.0, 9.0]) == []
    assert inflections([0.0, 1.0, 2.0, 3.05, 4.0, 5.0]) == []
