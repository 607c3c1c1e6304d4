"""Runs the published vLLM wheel on the CPU, for integration tests; nothing in it is changed.

The wheel's Python has the whole CPU path; what it lacks are the compiled CPU kernels
(`torch.ops._C`). They are here in plain torch (`kernels.py`), hooked in by a platform of our own
(`platform.py`), which vLLM finds through its entry point.
"""

from __future__ import annotations


def platform_plugin() -> str | None:
    """Entry point of group `vllm.platform_plugins`: ours, unless torch is built for a GPU."""
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None:
        return None
    return "pillion_vllm_cpu.platform.PlainCpuPlatform"
