# pyright: reportMissingImports=false
"""What vLLM's workers can do more: take other probes. vLLM adds these methods to its worker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pillion.probe import Artefact
from pillion.probe.group import group


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
        assert layer.reader is not None
        artefacts = [Artefact.load(folder, name) for name, folder in folders.items()]
        layer.reader.use(group(artefacts, layer.taps.device, torch.float32))
        layer.hold()
