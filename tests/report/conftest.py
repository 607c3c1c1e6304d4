"""Intervals of result files from a few resamples: pages look the same with them."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> None:
    # By its path: the package has a function of the module's name.
    module = importlib.import_module("pillion.evals.evaluation")
    pytest.MonkeyPatch().setattr(module, "NUM_RESAMPLES", 10)
