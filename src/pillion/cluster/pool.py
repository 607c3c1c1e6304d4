"""Units of work on Ray actors, each with a model of its own.

Promises every unit's result once, whatever workers are lost on the way: a lost worker's unit goes
to the next one that is free, and another worker is asked for. Does not know what the work is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pillion.backends import Backend
from pillion.cluster.same_model import check_same
from pillion.cluster.worker import FinishedUnit, UnitJob, Worker, WorkerError, version
from pillion.errors import MismatchError, PillionError, RunError, of_kind
from pillion.extract import Maker, check_samples

MOST_ATTEMPTS = 4
"""Workers that may be lost over one unit before it counts as what kills them."""

MOST_FAILED_STARTS = 4
"""Workers in a row that may die before their first unit."""

START_SECONDS = 300.0
"""How long a cluster may take to start a first worker: a node that is switched on needs minutes."""


@dataclass(eq=False)
class WorkerPool:
    """The workers of a cluster, which keep their models from one run to the next.

    Attributes:
        ray: the module, connected to a cluster.
        model: name of the language model; every worker loads its own.
        dtype: of its weights.
        device: `auto` takes the cluster's GPUs, where it has any.
        workers: how many; None for one a GPU, or else one a CPU core.
        say: told when a worker is lost.
    """

    ray: Any
    model: str
    dtype: str = "auto"
    device: str = "auto"
    workers: int | None = None
    say: Callable[[str], object] = lambda _: None
    _first: Maker | None = None
    _idle: list[Any] = field(default_factory=list[Any])
    # Ray's promise of a first answer -> the worker that gives it, and whether it is a new one.
    _starting: dict[Any, tuple[Any, bool]] = field(default_factory=dict[Any, tuple[Any, bool]])
    _num_failed_starts: int = 0

    @property
    def uses_gpus(self) -> bool:
        """Whether a worker holds a GPU."""
        return self.device != "cpu" and self._num("GPU") >= 1

    @property
    def maker(self) -> Maker:
        """The first worker, whom all others agree with; starts one if there was none.

        Raises:
            PillionError: as `run` does.
        """
        if self._first is None:
            for _ in self.run(_nothing, [None]):
                pass
        assert self._first is not None
        return self._first

    @property
    def num_workers(self) -> int:
        """How many workers the cluster is asked for."""
        return self.workers or max(1, int(self._num("GPU" if self.uses_gpus else "CPU")))

    def run(self, job: UnitJob, units: Sequence[Any]) -> Iterator[FinishedUnit]:
        """The results of all units, as they are finished.

        Args:
            job: what is done with a unit.
            units: small values; what is large lies on a disk that all nodes share.

        Raises:
            PillionError: as a worker raised it, naming the worker.
            MismatchError: workers have different models under one name, or round otherwise.
            RunError: no worker can be started, or a unit kills its workers.
        """
        shared = self.ray.put(job)
        waiting = deque(range(len(units)))
        running: dict[Any, tuple[Any, int]] = {}
        lost: Counter[int] = Counter()
        while waiting or running:
            self._start_workers(min(self.num_workers, len(waiting) + len(running)) - len(running))
            while waiting and self._idle:
                worker, unit = self._idle.pop(0), waiting.popleft()
                # In a list, so that Ray does not unpack the job at every call.
                running[worker.work.remote([shared], units[unit])] = (worker, unit)
            answer = self._wait([*self._starting, *running], may_take_long=bool(running))
            if answer in self._starting:
                self._add_started(answer)
                continue
            worker, unit = running.pop(answer)
            done = self._result(answer, worker)
            if done is not None:
                self._idle.append(worker)
                yield done
                continue
            waiting.appendleft(unit)
            lost[unit] += 1
            self._check_workers()
            self.say("A worker was lost; what it had goes to another one.")
            if lost[unit] == MOST_ATTEMPTS:
                raise RunError(
                    f"{MOST_ATTEMPTS} workers died over the same rows; they may need more memory "
                    "than a node has. What is done is kept; give fewer workers a node "
                    "or shorter rows, and run the same again."
                )

    def _num(self, resource: str) -> float:
        return float(self.ray.cluster_resources().get(resource, 0))

    def _start_workers(self, num_wanted: int) -> None:
        """Asks for workers until as many are idle or on their way as are wanted."""
        resources = {"num_cpus": 1, "num_gpus": 1 if self.uses_gpus else 0}
        remote = self.ray.remote(Worker).options(**resources)
        for _ in range(num_wanted - len(self._idle) - len(self._starting)):
            worker = remote.remote(self.model, self.dtype, self.device)
            self._starting[worker.version.remote()] = (worker, True)

    def _check_workers(self) -> None:
        """An idle worker may have been lost with another: it has to answer first."""
        for worker in self._idle:
            self._starting[worker.version.remote()] = (worker, False)
        self._idle.clear()

    def _wait(self, answers: list[Any], may_take_long: bool) -> Any:
        """The first answer that is there."""
        timeout = None if may_take_long else START_SECONDS
        ready, _ = self.ray.wait(answers, num_returns=1, timeout=timeout)
        if not ready:
            raise RunError(
                f"The cluster could not start a worker for {START_SECONDS:.0f} seconds; see what "
                "takes its cores (`ray status`). What is done is kept: run the same command again."
            )
        return ready[0]

    def _add_started(self, answer: Any) -> None:
        """Takes in a worker that has started, or notes that it died."""
        worker, is_new = self._starting.pop(answer)
        try:
            theirs = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self._num_failed_starts += is_new
            if self._num_failed_starts == MOST_FAILED_STARTS:
                raise RunError(
                    f"Workers cannot be started ({_last_line(error)}); install pillion, and what "
                    "the model needs, on every node."
                ) from error
            return
        if theirs != version():
            raise MismatchError(
                f"A node of the cluster has pillion {theirs}, this machine {version()}; install "
                "the same version on all of them."
            )
        self._num_failed_starts = 0
        self._idle.append(worker)

    def _result(self, answer: Any, worker: Any) -> FinishedUnit | None:
        """A unit's result; None if its worker was lost."""
        errors = self.ray.exceptions
        try:
            result: FinishedUnit | WorkerError = self.ray.get(answer)
        except errors.RayTaskError as error:
            raise RunError(f"A worker failed ({_last_line(error)}).") from error
        except errors.RayError:
            # It may be cut off and alive: two that work on the same unit would be one too many.
            self.ray.kill(worker)
            return None
        if isinstance(result, WorkerError):
            raise _error(result)
        if result.maker is not None:
            self._first = self._first or result.maker
            check_same(self._first.identity, result.maker.identity)
            check_samples(self._first.sample, result.maker.sample, result.maker.dtype)
        return result


def _nothing(backend: Backend, unit: None) -> tuple[None, int]:
    """A job without work, to learn which workers there are."""
    return None, 0


def _error(error_reply: WorkerError) -> PillionError:
    return of_kind(error_reply.kind)(f"Worker {error_reply.worker}: {error_reply.message}")


def _last_line(error: Exception) -> str:
    return str(error).strip().split("\n")[-1].strip().rstrip(".")
