"""A running application on the shipped engine without weights, for tests that only ask."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from client import application
from starlette.testclient import TestClient

from pillion.backends.fake import FakeBackend
from pillion.runtime import PlainEngine
from tiny_models import make_artefact


@pytest.fixture(scope="session")
def client() -> Generator[TestClient]:
    """With a binary, a multi-class and a multi-label probe; not to be changed."""
    backend = FakeBackend()
    tasks = {"safe": "binary", "topic": "multiclass", "tags": "multilabel"}
    probes = [
        make_artefact(name, backend.identity, task=task, seed=i)
        for i, (name, task) in enumerate(tasks.items())
    ]
    with application(PlainEngine(backend, probes)) as running:
        yield running
