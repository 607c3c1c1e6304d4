"""How soon and how wrongly a running score stops."""

from __future__ import annotations

import numpy as np

from pillion.metrics.running import after, detection, largest, tokens_until

RUNNING = [
    np.array([0.1, 0.2, 0.9]),
    np.array([0.8, 0.1]),
    np.array([0.3]),
    np.concatenate([np.full(40, 0.2), [0.95]]),
]
TARGETS = np.array([1, 0, 0, 1])


def test_the_score_of_a_row_that_is_over_is_its_last() -> None:
    assert after(RUNNING, 1).tolist() == [0.1, 0.8, 0.3, 0.2]
    assert after(RUNNING, 2).tolist() == [0.2, 0.1, 0.3, 0.2]
    assert after(RUNNING, 100).tolist() == [0.9, 0.1, 0.3, 0.95]


def test_a_stop_is_at_the_first_token_that_reaches_the_threshold() -> None:
    assert tokens_until(RUNNING, 0.8).tolist() == [3, 1, 0, 41]
    assert tokens_until(RUNNING, 0.3).tolist() == [3, 1, 1, 41]
    assert tokens_until(RUNNING, 0.96).tolist() == [0, 0, 0, 0]


def test_a_false_stop_is_by_the_largest_score_and_not_by_the_last() -> None:
    found = detection(RUNNING, TARGETS, 0.7)
    assert found["false_stops"] == 0.5  # the second row ends at 0.1
    assert largest(RUNNING).tolist() == [0.9, 0.8, 0.3, 0.95]


def test_what_is_found_late_is_found_but_not_early() -> None:
    found = detection(RUNNING, TARGETS, 0.7)
    assert (found["found"], found["found_early"]) == (1.0, 0.5)
    assert found["tokens_until_found"] == 22.0  # midway between 3 and 41
    assert detection(RUNNING, TARGETS, 0.93)["tokens_until_found"] == 41.0


def test_what_no_row_tells_is_none_and_what_nobody_judged_is_left_out() -> None:
    nothing = detection(RUNNING, TARGETS, 0.99)
    assert nothing["found"] == 0.0 and nothing["tokens_until_found"] is None
    all_true = detection(RUNNING, np.ones(4), 0.5)
    assert all_true["false_stops"] is None
    some = detection(RUNNING, np.array([1, np.nan, 0, np.nan]), 0.7)
    assert (some["false_stops"], some["found"]) == (0.0, 1.0)


def test_early_is_within_32_tokens() -> None:
    late, early = (np.append(np.zeros(before), 1.0) for before in (32, 31))
    found = detection([late, early], np.array([1, 1]), 0.5)
    assert (found["found"], found["found_early"]) == (1.0, 0.5)
    assert detection([late], np.array([1]), 0.5)["found_early"] == 0.0


def test_what_was_never_found_is_not_found_early() -> None:
    found = detection([np.zeros(5), np.ones(5)], np.array([1, 1]), 0.5)
    assert (found["found"], found["found_early"]) == (0.5, 0.5)
