"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, torch
from pillion.core.memory import keep_freed_memory
{call}
for number in range(20):
    activations = [torch.ones(1_000_000 + 1_000 * i) for i in range(40)]
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del activations
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(call: str) -> int:
    """Pages that a process is still given once it has made and dropped 40 tensors three times."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(call=call)], check=True, stdout=subprocess.PIPE
    )
    return int(done.stdout)


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_tensors_are_given_the_pages_of_those_before_them() -> None:
    assert _faults("assert keep_freed_memory()") < 1_000


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[always]" in HUGE_PAGES.read_text(),
    reason="huge pages are few, in any allocator",
)
def test_without_the_switch_most_pages_come_anew() -> None:
    assert _faults("") > 100_000
