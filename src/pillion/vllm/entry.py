"""What vLLM's options name: vLLM imports it by its path, whether our plugin was loaded or not.

So this is the first of our code that runs where the plugin was left out, and says so.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "PillionConnector":
        raise AttributeError(name)
    from pillion.vllm import plugin
    from pillion.vllm.start import check_plugin
    from pillion.vllm.versions import check_version, vllm_version

    check_version(vllm_version())
    check_plugin(plugin.registered)
    from pillion.vllm.connector import PillionConnector

    return PillionConnector
