"""Probes inside SGLang: they ride in its forward pass, and its answers carry their verdicts.

Nothing here imports SGLang until it is used. Knows no HTTP server but SGLang's own.
"""

from pillion.sglang.settings import ProbeSettings, settings_of

__all__ = ["ProbeSettings", "settings_of"]
