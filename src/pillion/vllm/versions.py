"""Which versions of vLLM probes ride in, and what differs between them.

Connectors and schedulers are no stable interface of vLLM. So what it takes to ride in another
version stands here, and others are refused. Imports no vLLM.
"""

from __future__ import annotations

from pillion.core.extras import how_to_install, installed_version
from pillion.errors import ConfigError

SUPPORTED = ("0.32", "0.33")
"""Ascending; the tests' environments, the extra in `pyproject.toml` and the documents follow it."""


def vllm_version() -> str:
    """Of the vLLM that is installed; empty if none is."""
    return installed_version("vllm")


def is_supported(version: str) -> bool:
    """Whether this is a vLLM that probes ride in."""
    return series(version) in SUPPORTED


def series(version: str) -> str:
    """The first two numbers of a version, which name what it shares with its repairs."""
    return ".".join(version.split(".")[:2])


def check_version(version: str) -> None:
    """Returns if vLLM is there and of a version that probes ride in.

    Raises:
        ConfigError: if it is not.
    """
    if not version:
        raise ConfigError(f"vLLM is not installed; run `{how_to_install('vllm')}`.")
    if not is_supported(version):
        raise ConfigError(
            f"vLLM {version} is installed, and probes ride in {' and '.join(SUPPORTED)} only; run "
            f"`pip install 'vllm=={SUPPORTED[-1]}.*'`."
        )


def says_when_it_sleeps(version: str) -> bool:
    """Whether vLLM tells a connector that the memory of the KV cache goes and comes back."""
    return series(version) != "0.32"
