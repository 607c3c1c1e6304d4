"""A real Ray cluster of two node processes on this machine, and what tests on it share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pillion.extract import cache_spec

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
SHARD_BYTES = 4_000_000
"""Of a few thousand tokens."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # a token would be kept in the home of the user who runs the tests
    "RAY_worker_niceness": "0",  # by default workers stand back for everything else that runs
    "HF_HUB_OFFLINE": "1",
}


def start_cluster() -> Any:
    """Two nodes of one core each, without a dashboard."""
    os.environ.update(ENVIRONMENT)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    return cluster


def small_shards(*arguments: Any) -> Any:
    """In place of `cache_spec`: shards of a few thousand tokens."""
    return replace(cache_spec(*arguments), shard_bytes=SHARD_BYTES)


def wait_until(is_true: Callable[[], bool], seconds: float = 120) -> None:
    """Returns as soon as it is true; the limit keeps a broken test from hanging."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.01)


def kill_in_the_middle(cluster: Any) -> None:
    """Kills the node that is not the head, whose worker cannot finish what it is about to do."""
    victim = next(node for node in cluster.list_all_nodes() if not node.head)
    raylet = psutil.Process(victim.all_processes["raylet"][0].process.pid)
    for process in raylet.children(recursive=True):
        process.suspend()
    cluster.remove_node(victim, allow_graceful=False)
    for process in raylet.children(recursive=True) if raylet.is_running() else ():
        process.kill()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its place there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def shards_in(folder: Path) -> set[str]:
    """Names of the whole shards of the cache that `extract --out` fills."""
    return {path.name for path in (folder / "train").glob("shard-*")}
