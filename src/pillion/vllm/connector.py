# pyright: reportMissingImports=false, reportUntypedBaseClass=false
"""The side cache in vLLM's step: a KV connector that loads and stores nothing outside.

vLLM calls a connector at the two places where the side cache needs to know something: in the
scheduler, what a step computes; in the worker, that the forward pass is over. What was read comes
back with the step's output.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)
from vllm.logger import init_logger

from pillion.errors import ConfigError
from pillion.riding.latest_logits import LatestLogits
from pillion.riding.report import Report
from pillion.vllm.adapter import SLOT_BYTES, VllmStepReader
from pillion.vllm.footprint import Footprint
from pillion.vllm.models import CACHE_LAYER, SideCacheLayer
from pillion.vllm.settings import VllmProbeSettings
from pillion.vllm.step import StepBuilder, VllmStep

logger = init_logger("vllm.pillion")


@dataclass
class StepMetadata(KVConnectorMetadata):
    """From the scheduler to the worker: what the step computes."""

    step: VllmStep


@dataclass
class ReportMetadata(KVConnectorWorkerMetadata):
    """From the worker to the scheduler: what was read."""

    report: Report

    def aggregate(self, other: Any) -> ReportMetadata:
        """The first rank's; others report nothing."""
        return self


class PillionConnector(KVConnectorBase_V1):
    """Both sides of the connector; vLLM makes one of each role."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        if len(groups) != 1 or not any(_is_ours(name) for name in groups[0].layer_names):
            raise ConfigError(
                f"The model has {len(groups)} groups of KV caches, and probes ride in models with "
                "one; start vLLM without its hybrid manager (--disable-hybrid-kv-cache-manager, in "
                "Python disable_hybrid_kv_cache_manager=True)."
            )
        self.block_tokens: int = groups[0].kv_cache_spec.block_size
        self.latest = LatestLogits()
        self._reasoning = VllmProbeSettings.of(vllm_config.additional_config).reasoning
        self._steps = StepBuilder(with_ids=self._reasoning is not None)
        self._layer: SideCacheLayer | None = None
        self._report: Report | None = None

    @property
    def requires_kv_delivery(self) -> bool:
        """No: a step's output may reach its client also if the request was preempted meanwhile."""
        return False

    # -- worker, in the order of time

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Gives the side cache its pages."""
        (name,) = filter(_is_ours, kv_caches)
        layers = self._vllm_config.compilation_config.static_forward_context
        self._layer = layer = layers[name]
        pages = kv_caches[name]  # [block, 1, token, column]
        pages = pages.view(len(pages), -1).view(torch.float32)
        requests = self._vllm_config.scheduler_config.max_num_seqs
        layer.reader = VllmStepReader(
            layer.taps, pages, self.block_tokens, requests, self._reasoning
        )
        logger.info("%s", self._footprint(layer.reader))

    def unregister_kv_caches(self) -> None:
        """Before a sleep: the memory of pages and rows goes, and with it what they hold."""
        if self._layer is not None and self._layer.reader is not None:
            self._layer.reader.sleep()

    def restore_kv_caches(self) -> None:
        """After a sleep: the prefix cache is empty, and so is the side cache."""
        if self._layer is not None and self._layer.reader is not None:
            self._layer.reader.wake()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing: prefixes come from vLLM's own cache."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: no layer is loaded from outside."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **_: Any) -> None:
        """Nothing: the forward pass has tapped what is needed."""

    def wait_for_save(self) -> None:
        """The forward pass is over: keeps its values, reads out."""
        self._report = None
        if self._layer is None or not self.has_connector_metadata():
            return
        assert self._layer.reader is not None
        metadata = self._get_connector_metadata()
        assert isinstance(metadata, StepMetadata)
        # States are the same on every rank of a tensor-parallel group: the first one reads.
        if get_tensor_model_parallel_rank() != 0:
            return
        if metadata.step.is_read:
            begin = time.perf_counter()
            self._report = report = self._layer.reader.read(metadata.step)
            report.seconds = time.perf_counter() - begin + self._layer.taps.take_seconds()

    def build_connector_worker_meta(self) -> ReportMetadata | None:
        """What was read in this step."""
        report, self._report = self._report, None
        return None if report is None else ReportMetadata(report)

    def _footprint(self, reader: VllmStepReader) -> Footprint:
        pages = {
            name: spec.page_size_bytes
            for group in self._kv_cache_config.kv_cache_groups
            for name, spec in _specs_by_layer(group)
        }
        own = sum(size for name, size in pages.items() if _is_ours(name))
        return Footprint(
            probes=tuple(a.name for group in reader.taps.groups for a in group.artefacts),
            num_layers=len(reader.taps.needs.layers),
            side_bytes=own / self.block_tokens + SLOT_BYTES,
            kv_bytes=(sum(pages.values()) - own) / self.block_tokens,
            buffer_bytes=reader.buffer_bytes,
        )

    # -- scheduler

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """No token is ever loaded from outside."""
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Nothing: blocks are told by `build_connector_meta`."""

    def on_new_request(self, request: Any) -> None:
        """A request has come; one for an adapter is not read: probes have not seen its states."""
        adapter = request.lora_request
        self.latest.enter(request.request_id, adapter and adapter.lora_name)
        if adapter is None:
            self._steps.enter(request)
        else:
            self._steps.skip(request.request_id)

    def build_connector_meta(self, scheduler_output: Any) -> StepMetadata:
        """What the step computes, for the worker."""
        return StepMetadata(self._steps.step(scheduler_output))

    def request_finished(
        self, request: Any, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """A request is over, or was given up."""
        self.latest.leave(request.request_id)
        self._steps.leave(request.request_id)
        return False, None


def _specs_by_layer(group: Any) -> list[tuple[str, Any]]:
    by_layer = getattr(group.kv_cache_spec, "kv_cache_specs", None)
    return [
        (name, by_layer[name] if by_layer else group.kv_cache_spec) for name in group.layer_names
    ]


def _is_ours(layer_name: str) -> bool:
    return layer_name.startswith(CACHE_LAYER)
