# pyright: reportMissingImports=false, reportUntypedBaseClass=false
"""vLLM's schedulers, whose outputs carry what was read in the same step.

A connector's `request_finished` is asked before the step's read-outs are there, and not at all
where the frontend ends a request at a stop string: so every output carries the latest.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from pillion.vllm.connector import PillionConnector, ReportMetadata


class _WithVerdicts:
    connector: Any

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        outputs: Any = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        assert isinstance(self.connector, PillionConnector)
        latest, step = self.connector.latest, model_runner_output.kv_connector_output
        if step is not None and isinstance(step.kv_connector_worker_meta, ReportMetadata):
            report = step.kv_connector_worker_meta.report
            latest.add(report.rows(), report.seconds)
        for client in outputs.values():
            for output in client.outputs:
                params = latest.params(output.request_id)
                output.kv_transfer_params = {**(output.kv_transfer_params or {}), **params}
        latest.forget()
        return outputs


class _PillionScheduler(_WithVerdicts, Scheduler):
    pass


class _PillionAsyncScheduler(_WithVerdicts, AsyncScheduler):
    pass


def pillion_scheduler(*, vllm_config: Any, **keywords: Any) -> Any:
    """The scheduler that vLLM would take itself, with verdicts; called as a class would be."""
    is_async = vllm_config.scheduler_config.async_scheduling
    made: Any = _PillionAsyncScheduler if is_async else _PillionScheduler
    return made(vllm_config=vllm_config, **keywords)
