"""Skips what needs vLLM where it is not installed, and lets vLLM's own warnings be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from engine_marks import mark_engine_tests
from pillion.vllm.versions import SUPPORTED, is_supported, vllm_version

os.environ["HF_HUB_OFFLINE"] = "1"
# Engines of one test run in this process, where they can be looked into.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
os.environ["PILLION_VLLM_ASYNC"] = "1"
os.environ["VLLM_PLUGINS"] = "pillion,pillion_cpu"
os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"
os.environ["VLLM_NO_USAGE_STATS"] = "1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model with probes, as a `ProbedModel`."""
    from riding import ProbedModel, save_tiny_model

    root = tmp_path_factory.mktemp("tiny")
    return ProbedModel(save_tiny_model(root / "model"), root / "probes")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model with a chat template and a probe of each scope, as a `ProbedModel`."""
    from riding import ProbedModel, save_chat_model
    from scoped import save_scoped

    root = tmp_path_factory.mktemp("chat")
    return ProbedModel(save_chat_model(root / "model"), root / "probes", save_scoped)


@pytest.fixture(scope="module")
def address(chat: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `vllm serve` answers with that model."""
    from serving import serving

    with serving(chat, tmp_path_factory.mktemp("serve")) as address:
        yield address


@pytest.fixture(scope="session", autouse=True)
def copies_of_probes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines keep copies of their probes elsewhere than in the user's cache."""
    root = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pillion.vllm.engine.cache_root", lambda: root)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    version = vllm_version()
    wanted = None if is_supported(version) else SUPPORTED
    mark_engine_tests(items, "vllm", "vLLM", version, wanted)
