"""Probes inside SGLang: they ride in its forward pass, and its answers carry their verdicts.

Nothing here imports SGLang until it is used. Knows no HTTP server but SGLang's own.
"""

from pillion.sglang.settings import SglangProbeSettings, settings_of

__all__ = ["SglangProbeSettings", "settings_of"]
