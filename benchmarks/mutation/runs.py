"""Tests of a copy of the project, run in processes that begin with the heavy libraries loaded.

A process each, forked from one that has imported torch and never pillion: a changed module is read
afresh, and torch is not. The first run notes which functions each test enters, so that a change
has to face only the tests that come by it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

PRELOADED = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.llama.modeling_llama",
    "sklearn.metrics",
    "scipy.stats",
    "fastapi",
    "httpx",
    "pydantic",
    "safetensors.torch",
    "pyarrow.parquet",
    "prometheus_client",
)
MARKS = "not gpu and not ray and not browser and not vllm and not architectures and not model"
"""Tests without weights and without a machine of their own."""
MEMORY_BYTES = 6 * 2**30
"""What a faulty run may take: a number too large must not take the machine's memory."""
NO_TEST = 5
"""pytest's exit code where nothing was chosen."""


@dataclass(frozen=True)
class Notes:
    """What the run without a fault has shown.

    Attributes:
        seconds: of each test, in the order in which they ran.
        entered: functions, as (file, qualified name), that were entered by a test, or, under the
            name of its file, while the file was collected or something was set up.
    """

    seconds: dict[str, float]
    entered: dict[str, set[tuple[str, str]]]

    def tests_of(
        self, path: str, function: str | None, below: Sequence[str], most_seconds: float
    ) -> list[str]:
        """The tests that come by a function, or all if it is none; quick ones first.

        Args:
            path: of the file, below `src/pillion`.
            function: its qualified name; None for a place outside of all functions.
            below: files and folders of tests that count.
            most_seconds: that they may take together; the first one always runs.
        """
        counted = [test for test in self.seconds if _is_below(test, below)]
        if function is None:  # what runs when the file is imported
            near = counted
        else:
            near = [test for test in counted if (path, function) in self._seen(test)]
        near = sorted(near, key=self.seconds.__getitem__)
        taken = accumulate(self.seconds[test] for test in near)
        fits = [test for test, seconds in zip(near, taken, strict=True) if seconds <= most_seconds]
        return fits or near[:1]

    def _seen(self, test: str) -> set[tuple[str, str]]:
        nothing = set[tuple[str, str]]()
        return self.entered.get(test, nothing) | self.entered.get(test.split("::")[0], nothing)


def _is_below(test: str, places: Sequence[str]) -> bool:
    file = test.split("::")[0]
    return any(file == place or file.startswith(f"{place}/") for place in places)


def baseline(place: Path, tests: Sequence[str]) -> Notes:
    """Runs the tests without a fault.

    Raises:
        SystemExit: one fails, or cannot be run: it would kill every mutant.
    """
    code = _run(place, tests, None, None)
    output = (place / "output.txt").read_text(encoding="utf-8")
    if code != 0:
        raise SystemExit(f"{output}\nTests fail without a fault (exit code {code}); mend them.")
    noted = json.loads((place / "notes.json").read_text(encoding="utf-8"))
    entered = {name: {(file, one) for file, one in own} for name, own in noted["entered"].items()}
    return Notes(noted["seconds"], entered)


def outcome(place: Path, tests: Sequence[str], limit_seconds: float) -> str:
    """`killed`, `timeout` (killed by hanging) or `survived`, by some tests in their order."""
    if not tests:
        return "survived"
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    code = _run(place, files, tests, limit_seconds)
    if code is None:
        return "timeout"
    return "survived" if code in {0, NO_TEST} else "killed"


def _run(
    place: Path, files: Sequence[str], chosen: Sequence[str] | None, limit: float | None
) -> int | None:
    """Exit code of a test run in a process of its own; None if it was killed at the limit."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_test, args=(str(place), list(files), chosen))
    process.start()
    process.join(limit)
    late = process.is_alive()
    with contextlib.suppress(ProcessLookupError):  # what it has started must not go on either
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    return None if late else process.exitcode


def _test(folder: str, files: list[str], chosen: list[str] | None) -> None:
    """The process of a run: the copy's own modules first, whatever is installed."""
    os.setsid()
    place = Path(folder)
    output = os.open(place / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(place)
    sys.path[:0] = own = [str(place / "src"), str(place)]
    os.environ["PYTHONPATH"] = os.pathsep.join(own)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    # Only the first run may keep what it compiles: of a changed file nothing must stay.
    sys.dont_write_bytecode = chosen is not None
    plugin = _Noting(place / "src" / "pillion") if chosen is None else _Choosing(chosen)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", MARKS]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # loaded before pytest began
    code = int(pytest.main([*options, *files], plugins=[plugin]))
    if isinstance(plugin, _Noting):
        plugin.write(place / "notes.json")
    sys.stdout.flush()
    os._exit(code)  # threads that a fault has left behind are not waited for


class _Choosing:
    """Runs some of the tests that are found, in the order given."""

    def __init__(self, chosen: Iterable[str]) -> None:
        self.rank = {test: place for place, test in enumerate(chosen)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        kept = [item for item in items if item.nodeid in self.rank]
        items[:] = sorted(kept, key=lambda item: self.rank[item.nodeid])


class _Noting:
    """Notes how long tests take and which functions of the package they enter."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.seconds: dict[str, float] = defaultdict(float)
        self.entered: dict[str, set[CodeType]] = defaultdict(set)

    @contextlib.contextmanager
    def _noting(self, name: str) -> Generator[None]:
        seen = self.entered[name]

        def note(frame: FrameType, *_: object) -> None:
            seen.add(frame.f_code)

        threading.settrace(note)
        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # pyright: ignore[reportArgumentType]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: Any) -> Generator[None, Any, Any]:
        with self._noting(collector.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: Any) -> Generator[None, Any, Any]:
        # What is set up once may serve the other tests of the file.
        with self._noting(item.nodeid.split("::")[0]):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Generator[None, Any, Any]:
        with self._noting(item.nodeid):
            return (yield)

    def write(self, path: Path) -> None:
        """Everything noted, as JSON."""
        inside = f"{self.package}{os.sep}"
        entered = {
            name: sorted(
                (code.co_filename.removeprefix(inside), code.co_qualname)
                for code in codes
                if code.co_filename.startswith(inside)
            )
            for name, codes in self.entered.items()
        }
        content = {"seconds": self.seconds, "entered": entered}
        path.write_text(json.dumps(content), encoding="utf-8")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
