# pyright: reportMissingImports=false
"""What vLLM's workers can do more: take other probes. vLLM adds these methods to its worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pillion.probe import Artefact
from pillion.vllm.layout import Layout


class ProbeWorker:
    """Named in vLLM's `worker_extension_cls`."""

    vllm_config: Any

    def set_probes(self, folders: Mapping[str, str]) -> None:
        """Lets other probes ride, between requests and with an empty prefix cache.

        Args:
            folders: name -> folder of a saved probe.
        """
        from pillion.vllm.models import SideCacheLayer

        layers = self.vllm_config.compilation_config.static_forward_context.values()
        (layer,) = (one for one in layers if isinstance(one, SideCacheLayer))
        side_cache = layer.side_cache
        artefacts = [Artefact.load(folder, name) for name, folder in folders.items()]
        side_cache.ride(Layout(artefacts, side_cache.device, side_cache.layout.layers))
