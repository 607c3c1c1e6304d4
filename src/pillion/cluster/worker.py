"""The process on a node: one model, one thread, and whatever job it is given.

Promises that an error which pillion raises on purpose arrives as itself. Does not know where
units come from, or how many workers there are.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

from pillion.backends import Backend, load_backend
from pillion.errors import PillionError
from pillion.extract import Maker


@runtime_checkable
class UnitJob(Protocol):
    """What a worker does with a unit; a worker keeps it, and what it has opened, between units."""

    def __call__(self, backend: Backend, unit: Any) -> tuple[Any, int]:
        """The unit's result, and how many tokens it took."""
        ...


@dataclass(frozen=True)
class FinishedUnit:
    """A finished unit.

    Attributes:
        value: its result.
        tokens: how many it took.
        seconds: how long its worker was busy with it, the loading of the model left out.
        worker: address of the node and id of the process.
        maker: what tells its states from others', with its first unit.
    """

    value: Any
    tokens: int
    seconds: float
    worker: str
    maker: Maker | None = None


@dataclass(frozen=True)
class WorkerError:
    """An error that a worker raised on purpose.

    Attributes:
        kind: name of its class in `pillion.errors`.
        message: its sentence.
        worker: as in `FinishedUnit`.
    """

    kind: str
    message: str
    worker: str


class Worker:
    """A Ray actor.

    Args:
        model: name of the language model, loaded with the first unit.
        dtype: of its weights.
        device: where it runs.
    """

    def __init__(self, model: str, dtype: str, device: str) -> None:
        self.names = (model, dtype, device)
        self.backend: Backend | None = None
        self.job: tuple[Any, UnitJob] | None = None

    def version(self) -> str:
        """Of pillion on this node; the first answer of a worker that has started."""
        return version()

    def work(self, shared: list[Any], unit: Any) -> FinishedUnit | WorkerError:
        """Does a unit.

        Args:
            shared: Ray's reference of the job.
            unit: of that job.
        """
        # An error that is raised here would come back wrapped, with the stack as its text.
        try:
            maker = None
            if self.backend is None:
                self.backend = _load(*self.names)
                maker = Maker.of(self.backend)
            begin = time.perf_counter()
            value, tokens = self._take(shared[0])(self.backend, unit)
            return FinishedUnit(value, tokens, time.perf_counter() - begin, _address(), maker)
        except PillionError as error:
            return WorkerError(type(error).__name__, str(error), _address())

    def _take(self, reference: Any) -> UnitJob:
        if self.job is None or self.job[0] != reference:
            import ray

            self.job = (reference, ray.get(reference))
        return self.job[1]


def version() -> str:
    """Of pillion as it is installed here."""
    return metadata.version("pillion")


def _load(model: str, dtype: str, device: str) -> Backend:
    import torch

    # Ray gives a worker one core; threads that share it would wait for each other.
    torch.set_num_threads(1)
    return load_backend(model, dtype, device)


def _address() -> str:
    import ray.util

    return f"{ray.util.get_node_ip_address()}/{os.getpid()}"
