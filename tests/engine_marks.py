"""The marks of another engine's tests: skipped where it is not there, its own warnings let be."""

from __future__ import annotations

from collections.abc import Sequence

import pytest


def mark_engine_tests(
    items: list[pytest.Item],
    marker: str,
    engine: str,
    version: str,
    wanted: Sequence[str] | None,
) -> None:
    """Marks the tests of an engine.

    Args:
        items: all tests.
        marker: of those of the engine, and their folder.
        engine: its name.
        version: that is installed; empty for none.
        wanted: versions that probes ride in; None where this is one of them.
    """
    marks = [pytest.mark.filterwarnings("ignore")]
    if wanted is not None:
        needs = f"needs {engine} {' or '.join(wanted)}, found {version or 'none'}"
        reason = f"{needs}: tests/{marker}/install.sh makes an environment"
        marks.append(pytest.mark.skip(reason=reason))
    for item in items:
        if item.get_closest_marker(marker) is not None:
            for mark in marks:
                item.add_marker(mark)
