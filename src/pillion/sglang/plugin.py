# pyright: reportMissingImports=false
"""The entry point that SGLang calls in every one of its processes: registers hooks.

Where no probe rides, nothing is done.
"""

from __future__ import annotations

import os

from pillion.sglang.settings import settings_of
from pillion.sglang.versions import is_supported, sglang_version


def register() -> None:
    """Entry point of the group `sglang.srt.plugins`."""
    if settings_of(os.environ) is None or not is_supported(sglang_version()):
        return  # said where the server starts
    from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from pillion.sglang.hooks import HOOKS

    SchedulerOutputStreamer.has_additional_customized_info = True
    for target, hook in HOOKS.items():
        HookRegistry.register(target, hook, HookType.AROUND)
