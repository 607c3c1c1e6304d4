"""The law of caches: a crash at any point leaves a complete cache or none, and a rerun finishes it.

Run as a program, this file is the process that crashes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

import pillion.cache
from pillion.cache import CacheReader, CacheSpec, CacheWriter
from pillion.errors import StorageError

SPEC = CacheSpec("key", (1, 4), 6, "bfloat16", (3, 0, 5, 2, 9, 1, 4), shard_bytes=8 * 2 * 6 * 2)
NUM_POINTS = 24


def row(row_id: int) -> Tensor:
    generator = torch.Generator().manual_seed(row_id)
    return torch.randn(2, SPEC.lengths[row_id], 6, generator=generator).bfloat16()


def fill(folder: Path, rows: Callable[[range], Sequence[Tensor]]) -> None:
    writer = CacheWriter(folder, SPEC)
    for shard in writer.missing():
        writer.write(shard, rows(shard.row_ids))
    writer.finish()


def at_once(row_ids: range) -> list[Tensor]:
    return [row(row_id) for row_id in row_ids]


class OneByOne(Sequence[Tensor]):
    """Rows that take their time, and say so: first when they are checked, then when written."""

    def __init__(self, row_ids: range) -> None:
        self.row_ids = row_ids

    def __len__(self) -> int:
        return len(self.row_ids)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        row_id = self.row_ids[index]
        print(row_id, flush=True)
        time.sleep(0.05)
        return row(row_id)


def fill_until_line(folder: Path, last_line: int | None) -> int:
    """Fills a cache and counts the lines that ran; is killed in front of the last one."""
    package = str(Path(pillion.cache.__file__).parent)
    num_lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal num_lines
        if not frame.f_code.co_filename.startswith(package):
            return None
        num_lines += event == "line"
        if num_lines == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    fill(folder, at_once)
    sys.settrace(None)
    return num_lines


def in_child(act: Callable[[], object]) -> int:
    process_id = os.fork()
    if not process_id:
        act()
        os._exit(0)
    return process_id


def crash_everywhere(folder: Path) -> None:
    """Leaves one folder for every point of the code at which a process was killed."""
    # Cut once: a child that inherits the shards runs fewer lines than the first run would.
    assert SPEC.shards
    total = fill_until_line(folder / "whole", None)
    points = {1 + i * (total - 1) // NUM_POINTS for i in range(NUM_POINTS)}
    # The manifest is renamed among the last lines.
    for point in sorted(points | set(range(total - 12, total + 1, 2))):
        process_id = in_child(lambda point=point: fill_until_line(folder / str(point), point))
        _, status = os.waitpid(process_id, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL


def crash_until_finished(folder: Path) -> None:
    """Kills a process again and again, each a little later, until one finishes."""
    last_line, status = 0, -1
    while status:
        last_line += 200
        process_id = in_child(lambda last_line=last_line: fill_until_line(folder, last_line))
        _, status = os.waitpid(process_id, 0)


def two_at_once(folder: Path) -> None:
    """Two processes that fill the same cache at the same time, several times over."""
    for attempt in range(5):
        path = folder / str(attempt)
        process_ids = [in_child(lambda path=path: fill(path, at_once)) for _ in range(2)]
        assert [os.waitpid(i, 0)[1] for i in process_ids] == [0, 0]


def fill_slowly(folder: Path) -> None:
    fill(folder, OneByOne)


PROGRAMS = {
    act.__name__: act for act in (crash_everywhere, crash_until_finished, two_at_once, fill_slowly)
}


def program(act: Callable[[Path], None], folder: Path) -> list[str]:
    return [sys.executable, __file__, act.__name__, str(folder)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def complete_or_none(folder: Path) -> bool:
    """Whether a cache can be read, and every row is right if so."""
    try:
        reader = CacheReader(folder)
    except StorageError:
        return False
    with reader:
        reader.verify()
        assert all(torch.equal(reader.read(i), row(i)) for i in range(len(SPEC.lengths)))
    return True


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    fill(folder, at_once)
    return contents(folder)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("crashed")
    subprocess.run(program(crash_everywhere, folder), check=True)
    yield [path for path in folder.iterdir() if path.name != "whole"]


def test_a_crash_at_any_point_leaves_a_complete_cache_or_none_and_a_rerun_finishes_it(
    crashed: list[Path], whole: dict[str, bytes]
):
    had_temporary = [any(folder.glob(".*.tmp")) for folder in crashed]
    were_complete = [complete_or_none(folder) for folder in crashed]
    # The points are worth something: in the midst of a file, and on both sides of the manifest.
    assert any(had_temporary) and not all(had_temporary)
    assert any(were_complete) and not all(were_complete)
    for folder in crashed:
        fill(folder, at_once)
        assert complete_or_none(folder)
        assert contents(folder) == whole


def test_a_cache_that_crashes_again_and_again_is_finished_in_the_end(
    tmp_path: Path, whole: dict[str, bytes]
):
    subprocess.run(program(crash_until_finished, tmp_path), check=True)
    assert complete_or_none(tmp_path)
    assert contents(tmp_path) == whole


def test_two_processes_that_write_the_same_cache_do_not_harm_each_other(
    tmp_path: Path, whole: dict[str, bytes]
):
    subprocess.run(program(two_at_once, tmp_path), check=True)
    for folder in tmp_path.iterdir():
        assert complete_or_none(folder)
        # The slower of the two may leave nothing but what a rerun removes.
        fill(folder, at_once)
        assert contents(folder) == whole


def test_a_process_killed_from_outside_is_finished_by_another(
    tmp_path: Path, whole: dict[str, bytes]
):
    folder = tmp_path / "cache"
    for num_steps in (3, 8):
        command = program(fill_slowly, folder)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(num_steps):
                assert process.stdout.readline()
            process.kill()
            assert process.wait() == -signal.SIGKILL
        assert not complete_or_none(folder)
    fill(folder, at_once)
    assert contents(folder) == whole


if __name__ == "__main__":
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    PROGRAMS[sys.argv[1]](Path(sys.argv[2]))
