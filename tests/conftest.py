"""Turns on the checks of shapes and types that users do not pay for, and fixes every seed."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

# The hook rewrites modules as they are imported, so nothing of the package may be there yet.
assert "pillion" not in sys.modules, "pillion was imported before its shapes could be checked"
jaxtyping.install_import_hook(["pillion", "pillion_bench"], "beartype.beartype")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A source of random numbers of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tensors so small that a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
