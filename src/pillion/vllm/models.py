# pyright: reportMissingImports=false, reportUntypedBaseClass=false
"""vLLM's model classes with probes inside: one generic subclass, made when its name is asked for.

`PillionXForCausalLM` is vLLM's own `XForCausalLM` that also taps its residual stream. vLLM loads it
through its registry, as `pillion.vllm.models:PillionXForCausalLM`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.config import get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.models.extract_hidden_states import CacheOnlyAttentionLayer
from vllm.model_executor.models.interfaces import supports_eagle3
from vllm.model_executor.models.registry import ModelRegistry
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.kv_cache_interface import HiddenStateCacheSpec

from pillion.probe.group import group
from pillion.vllm.adapter import VllmStepReader
from pillion.vllm.settings import PREFIX, VllmProbeSettings
from pillion.vllm.start import check_aux_states
from pillion.vllm.taps import VllmTaps

CACHE_LAYER = "pillion_side_cache"
"""Name of the side cache among the layers that have a KV cache."""


class SideCacheLayer(CacheOnlyAttentionLayer):
    """Asks vLLM for the pages of a side cache, with the block table of the KV cache.

    Attributes:
        taps: that the forward pass fills.
        reader: the side cache, as soon as vLLM has given its pages.
    """

    def __init__(self, taps: VllmTaps, prefix: str) -> None:
        # States are fp32 also where keys and values are quantised.
        config = replace(get_current_vllm_config().cache_config, cache_dtype="auto")
        super().__init__(num_heads=1, head_size=1, cache_config=config, prefix=prefix)
        self.taps = taps
        self.reader: VllmStepReader | None = None
        self.hold()

    def hold(self) -> None:
        """Shows vLLM what probes hold: where weights sleep, it keeps the buffers of a model."""
        for name in [name for name in self._buffers if name.startswith("probes_")]:
            delattr(self, name)
        for name, tensor in self.taps.tensors().items():
            self.register_buffer(f"probes_{name.replace('.', '_')}", tensor, persistent=False)

    def get_kv_cache_spec(self, vllm_config: Any) -> Any:
        """A page a block, as wide as its folded states.

        It is declared in the dtype of the KV cache: with two dtypes vLLM would clear every block
        that it gives out.
        """
        block_tokens = vllm_config.cache_config.block_size
        dtype = self.kv_cache_torch_dtype
        # Probes of answers alone keep nothing; but there is no page of nothing.
        state_bytes = 4 * max(self.taps.needs.page_numbers, 1)
        # A multiple of 4 bytes a token keeps every page aligned for fp32.
        width = 4 * math.ceil(state_bytes / (4 * block_tokens)) // dtype.itemsize
        return HiddenStateCacheSpec(
            block_size=block_tokens, num_kv_heads=1, head_size=width, dtype=dtype
        )


def with_probes(base: Any) -> Any:
    """The subclass of a vLLM model class that taps its residual stream."""

    class ProbedModel(base):
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            check_aux_states(supports_eagle3(base), base.__name__)
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            taps = _taps(vllm_config)
            self.set_aux_hidden_state_layers(taps.needs.layers)
            # vLLM reads one integer, the layer's place, in the name of whatever has a cache.
            place = vllm_config.model_config.get_total_num_hidden_layers()
            self.pillion = SideCacheLayer(taps, f"{CACHE_LAYER}.{place}")

        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            hidden, states = super().forward(*args, **kwargs)
            slots = get_forward_context().slot_mapping
            self.pillion.taps.see(states, slots.get(self.pillion.layer_name))
            return hidden

    ProbedModel.__name__ = ProbedModel.__qualname__ = PREFIX + base.__name__
    ProbedModel.__module__ = __name__
    return ProbedModel


def _taps(vllm_config: Any) -> VllmTaps:
    settings = VllmProbeSettings.of(vllm_config.additional_config)
    device = torch.device(vllm_config.device_config.device)
    longest = vllm_config.compilation_config.max_cudagraph_capture_size or 0
    most = max(vllm_config.scheduler_config.max_num_batched_tokens, longest)
    # A model is made with its own dtype and device as torch's defaults; probes have theirs.
    with set_default_torch_dtype(torch.float32), torch.device("cpu"):
        # fp32 whatever the model's dtype: taps are narrow, and folds need the digits.
        return VllmTaps(group(settings.load(), device, torch.float32), most, device)


def __getattr__(name: str) -> Any:
    if not name.startswith(PREFIX):
        raise AttributeError(name)
    base = ModelRegistry.models[name.removeprefix(PREFIX)].load_model_cls()
    globals()[name] = found = with_probes(base)
    return found
