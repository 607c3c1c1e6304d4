"""Skips what needs SGLang where it is not installed, and lets SGLang's own warnings be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from engine_marks import mark_engine_tests
from pillion.sglang.versions import SUPPORTED, is_supported, sglang_version

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A Llama with a chat template and probes of every scope, as a `ProbedModel`."""
    from sglang_probed import ProbedModel

    return ProbedModel(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def address(chat: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `pillion sglang` answers with that model."""
    from sglang_serving import serving

    with serving(chat, tmp_path_factory.mktemp("serve"), "--enable-metrics") as address:
        yield address


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    version = sglang_version()
    wanted = None if is_supported(version) else SUPPORTED
    mark_engine_tests(items, "sglang", "SGLang", version, wanted)
