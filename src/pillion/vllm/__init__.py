"""Probes inside vLLM: they ride in its forward pass, and its outputs carry their verdicts.

Nothing here imports vLLM until it is used. Knows no HTTP server but vLLM's own.
"""

from pillion.riding.turns import turns_args
from pillion.riding.verdicts import Verdicts, verdicts_of
from pillion.vllm.engine import VllmEngine
from pillion.vllm.load import load_vllm_engine
from pillion.vllm.settings import option_file, options

__all__ = [
    "Verdicts",
    "VllmEngine",
    "load_vllm_engine",
    "option_file",
    "options",
    "turns_args",
    "verdicts_of",
]
