"""vLLM as an engine, by the options of `pillion serve`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pillion.backends.paged import PagedSettings
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.vllm.engine import VllmEngine

CPU_BLOCK_TOKENS = 32
"""The fewest that vLLM's attention takes on a CPU."""


def load_vllm_engine(
    model: str, dtype: str, device: str, probes: Sequence[Artefact], sizes: PagedSettings
) -> VllmEngine:
    """A `VllmEngine` by the options of `pillion serve`.

    vLLM chooses its device itself, and on a GPU also how many tokens it holds.

    Args:
        model: `embedded`, a folder, or the name of a hub's model that was downloaded.
        dtype: of the weights.
        device: `auto`, or what vLLM will take anyway.
        probes: one or more.
        sizes: how much is held and done at once.

    Raises:
        ConfigError: as `VllmEngine`; a device that vLLM does not take.
    """
    taken = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in {"auto", taken}:
        raise ConfigError(f"vLLM runs on {taken} here, not on {device!r}; leave the device out.")
    others: dict[str, Any] = {"max_num_seqs": sizes.max_requests}
    if taken == "cpu":
        others |= {
            "block_size": CPU_BLOCK_TOKENS,
            "num_gpu_blocks_override": sizes.cache_tokens // CPU_BLOCK_TOKENS + 1,
            "max_num_batched_tokens": sizes.max_chunk_tokens,
            # The blocks decide; but without a size vLLM wants nine tenths of the memory to be free.
            "kv_cache_memory_bytes": 2**30,
        }
    return VllmEngine(model, probes, dtype, **others)
