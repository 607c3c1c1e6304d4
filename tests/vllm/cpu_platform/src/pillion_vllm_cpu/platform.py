"""vLLM's CPU platform, with kernels that exist in the wheel of another device."""

from __future__ import annotations

import os
from typing import Any

from vllm.platforms.cpu import CpuPlatform


class PlainCpuPlatform(CpuPlatform):
    """`CpuPlatform` whose kernels are the plain ones of `kernels.py`."""

    @classmethod
    def import_kernels(cls) -> None:
        """Called by vLLM in every process before a model is made."""
        from pillion_vllm_cpu import kernels

        kernels.register()

    @classmethod
    def apply_config_platform_defaults(cls, vllm_config: Any) -> None:
        """No compiled norms and activations: vLLM's own plain ones, and no compilation."""
        from vllm.config import CompilationMode

        super().apply_config_platform_defaults(vllm_config)
        compilation = vllm_config.compilation_config
        off = [op for op in compilation.custom_ops if op[0] == "-"]
        compilation.custom_ops = [*off, "none"]
        if compilation.mode is None:
            compilation.mode = CompilationMode.NONE

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Lets a test ask for the asynchronous scheduler, which CPUs do not get by default."""
        wanted = vllm_config.scheduler_config.async_scheduling
        super().check_and_update_config(vllm_config)
        if wanted and os.environ.get("PILLION_VLLM_ASYNC") == "1":
            vllm_config.scheduler_config.async_scheduling = True

    @classmethod
    def register_triton_kernel_overrides(cls) -> None:
        """Puts right one fallback for machines without Triton.

        vLLM 0.32.0 calls it with the Triton kernel's arguments, in whose order its own fallback
        takes the slot mapping for the block size.
        """
        from vllm.triton_utils import HAS_TRITON
        from vllm.triton_utils.dispatcher import register_kernels

        from pillion_vllm_cpu import kernels

        super().register_triton_kernel_overrides()
        if not HAS_TRITON:
            name = "vllm.v1.worker.block_table.ComputeSlotMappingKernel.kernel"
            register_kernels({name: kernels.compute_slot_mapping_kernel})
