"""Reaches a running Ray cluster, or says in one sentence why it cannot be reached.

Does not know what the cluster is for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from pillion.errors import ConfigError

ANSWER_SECONDS = 5.0
"""How long a head node may take to answer at all; one on another continent takes half a second."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How every client of Ray's protocol (gRPC over HTTP/2) begins: a fixed text and empty settings."""
_SETTINGS = 4


@contextmanager
def connect(address: str) -> Generator[Any]:
    """The `ray` module, connected to a cluster; disconnected afterwards.

    Nothing is printed on standard output meanwhile.

    Args:
        address: `auto` for the cluster that this machine is part of, or `HOST:PORT` of its head.

    Raises:
        ConfigError: Ray is not installed, the address is none, or no server answers there.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("A Ray cluster needs the ray package; run `pip install pillion[ray]`.")
    if address != "auto":
        _check_answer(address)
    # Nothing that this program does is reported to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = importlib.import_module("ray")
    try:
        # Workers' output and Ray's own notes would bury what pillion says.
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:
        raise ConfigError(_unreachable(address, error)) from error
    # Ray prints the last words of nodes that died on standard output, among the results.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()


def _check_answer(address: str) -> None:
    """Returns if a server of Ray's protocol listens; Ray itself waits two minutes for it."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise ConfigError(
            f"{address} is for Ray's client, which pillion does not use; run this on a machine of "
            "the cluster (`ray job submit` does), with the address auto."
        )
    if not host or not port.isdecimal():
        raise ConfigError(
            f"{address} is no address of a Ray cluster; give auto, or HOST:PORT of its head node, "
            "such as 10.0.0.1:6379."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as answer:
            answer.settimeout(ANSWER_SECONDS)
            answer.sendall(_PREFACE)
            frame = answer.recv(4, socket.MSG_WAITALL)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            _unreachable(address, getattr(error, "strerror", None) or error)
        ) from error
    if len(frame) < 4 or frame[3] != _SETTINGS:
        raise ConfigError(_unreachable(address, "what answers is not Ray"))


def _unreachable(address: str, error: object) -> str:
    why = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
    if address == "auto":
        return (
            f"No Ray cluster runs on this machine ({why}); start one with `ray start --head`, or "
            "give HOST:PORT of its head node."
        )
    return (
        f"No Ray cluster answers at {address} ({why}); check the address, and that the head "
        "node runs (`ray status`)."
    )
