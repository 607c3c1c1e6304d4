"""Who gets which unit, with workers that die, on a stand-in for Ray without processes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pillion.backends import Backend
from pillion.cache import CacheSpec
from pillion.cluster import Tally, WorkerPool
from pillion.cluster.extract import _cut
from pillion.cluster.worker import FinishedUnit, version
from pillion.errors import DataError, Interrupted, MismatchError, PillionError, RunError, of_kind


class Lost(Exception):
    """What the stand-in raises in the place of Ray's errors of dead workers."""


class Failed(Lost):
    """And of tasks that raised."""


class Answer:
    """A promise that is kept when it is asked for."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call


class FakeRay:
    """Runs a call when its answer is asked for.

    Args:
        cores: of the cluster.
        dies: whether a worker (by number, from 1) dies of a unit.
    """

    exceptions = SimpleNamespace(RayError=Lost, RayTaskError=Failed)

    def __init__(self, cores: int, dies: Callable[[int, Any], bool] = lambda _, __: False) -> None:
        self.cores, self.dies = cores, dies
        self.started, self.killed = 0, 0
        self.version = version()
        self.dead: set[int] = set()  # workers that died unseen

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores)}

    def put(self, value: Any) -> Any:
        return Answer(lambda: value)

    def remote(self, kind: type[Any]) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._start))

    def _start(self, *_: str) -> Any:
        self.started += 1
        number = self.started

        def work(shared: list[Answer], unit: Any) -> Answer:
            return Answer(lambda: self._work(number, shared[0].call(), unit))

        return SimpleNamespace(
            version=SimpleNamespace(remote=lambda: Answer(lambda: self._version(number))),
            work=SimpleNamespace(remote=work),
        )

    def _version(self, number: int) -> str:
        if number in self.dead:
            raise Lost("the worker was dead")
        return self.version

    def _work(self, number: int, job: Any, unit: Any) -> FinishedUnit:
        if number in self.dead or self.dies(number, unit):
            raise Lost("the worker died")
        value, tokens = job(None, unit)
        return FinishedUnit(value, tokens, 1.0, f"worker-{number}")

    def wait(self, answers: list[Answer], num_returns: int, timeout: float | None) -> Any:
        return [answers[0]], answers[1:]

    def get(self, answer: Answer) -> Any:
        return answer.call()

    def kill(self, worker: Any) -> None:
        self.killed += 1


def double(_: Backend | None, unit: int) -> tuple[int, int]:
    return 2 * unit, unit


def run(ray: FakeRay, num_units: int) -> tuple[list[int], Tally]:
    tally, values = Tally(), list[int]()
    for done in WorkerPool(ray, "fake").run(double, range(num_units)):
        tally.add(done)
        values.append(done.value)
    return values, tally


def test_every_unit_is_done_once_by_all_workers() -> None:
    values, tally = run(FakeRay(cores=3), 20)
    assert sorted(values) == [2 * unit for unit in range(20)]
    assert sum(tally.tokens.values()) == sum(range(20))


def test_what_lost_workers_had_is_done_by_others() -> None:
    ray = FakeRay(cores=2, dies=lambda number, unit: number in (1, 2, 4) and unit % 3 == 1)
    values, tally = run(ray, 20)
    assert sorted(values) == [2 * unit for unit in range(20)]
    assert ray.killed >= 2 and ray.started == 2 + ray.killed
    assert sum(tally.tokens.values()) == sum(range(20))


def test_a_unit_that_kills_every_worker_ends_the_run() -> None:
    ray = FakeRay(cores=2, dies=lambda _, unit: unit == 5)
    with pytest.raises(RunError, match="4 workers died over the same rows"):
        run(ray, 8)


def test_idle_workers_of_a_lost_node_are_not_held_against_a_unit() -> None:
    """A unit was given up after four workers that had died before, with their node."""
    ray = FakeRay(cores=6)
    pool = WorkerPool(ray, "fake")
    assert len(list(pool.run(double, range(6)))) == 6
    ray.dead = {1, 2, 3, 4, 5, 6}
    assert [done.value for done in pool.run(double, [7])] == [14]
    assert ray.started == 7


def test_no_more_workers_are_started_than_there_are_units() -> None:
    ray = FakeRay(cores=16)
    assert sorted(run(ray, 2)[0]) == [0, 2]
    assert ray.started == 2


def test_no_units_need_no_worker() -> None:
    ray = FakeRay(cores=2)
    assert run(ray, 0)[0] == [] and ray.started == 0


def test_a_node_with_another_version_is_refused() -> None:
    ray = FakeRay(cores=1)
    ray.version = "0.0.1"
    with pytest.raises(MismatchError, match=r"has pillion 0\.0\.1"):
        run(ray, 1)


def test_an_error_by_name_is_the_class_of_the_tree() -> None:
    assert of_kind("DataError") is DataError
    assert of_kind("Interrupted") is Interrupted and of_kind("PillionError") is PillionError


def test_units_get_smaller_towards_the_end_and_hold_every_shard_once() -> None:
    for num_shards in (0, 1, 2, 7, 40, 1000):
        shards = CacheSpec("key", (0,), 1, "float32", (1,) * num_shards, shard_bytes=4).shards
        units = _cut(shards, num_workers=4)
        assert [shard for unit in units for shard in unit] == list(shards)
        sizes = [len(unit) for unit in units]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[:1] in ([], [1], [3], [4]) and sizes[-1:] in ([], [1])


class Starting(FakeRay):
    """Workers (by number) that die before their first answer; the run may not go on for ever."""

    def __init__(self, dead_at_start: set[int], cores: int = 1, most: int = 30) -> None:
        super().__init__(cores)
        self.dead, self.most = dead_at_start, most

    def _start(self, *words: str) -> Any:
        assert self.started < self.most, "workers are started without end"
        return super()._start(*words)


def test_workers_that_never_start_end_the_run() -> None:
    """They were asked for again without end."""
    ray = Starting(set(range(1, 100)))
    with pytest.raises(RunError, match="Workers cannot be started"):
        run(ray, 3)
    assert ray.started == 4


def test_a_worker_that_starts_wipes_out_those_that_did_not() -> None:
    """Three failed starts, one that works and is lost, and three more: no four in a row."""
    ray = Starting({1, 2, 3, 5, 6, 7})
    ray.dies = lambda number, unit: number == 4 and unit == 0
    assert run(ray, 2)[0] == [0, 2]
    assert ray.started == 8


def test_what_a_lost_worker_had_is_done_next() -> None:
    """Put behind all others, a unit that kills its workers would be told at the end of the run."""
    ray = FakeRay(cores=1, dies=lambda number, _: number == 1)
    assert run(ray, 4)[0] == [0, 2, 4, 6]


def test_an_error_of_the_work_ends_the_run_and_is_not_taken_for_a_lost_worker() -> None:
    def fail(_: Backend | None, unit: int) -> tuple[int, int]:
        raise Failed("first line\nValueError: the work is wrong.")

    ray = FakeRay(cores=1)
    with pytest.raises(RunError, match=r"A worker failed \(ValueError: the work is wrong\)"):
        list(WorkerPool(ray, "fake").run(fail, range(3)))
    assert ray.started == 1 and ray.killed == 0
