# pyright: reportMissingImports=false
"""Around SGLang's own functions, in all of its processes: which they are, and what is done there.

In the scheduler's: a step is told before its pass and read behind it; what was read goes out with a
request's tokens. In the server's: it comes in there, and is told. Imports SGLang where it is used.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from pillion.errors import ConfigError
from pillion.riding.latest_logits import KEY
from pillion.sglang.adapter import SglangStepReader
from pillion.sglang.engine_proxy import engine_proxy
from pillion.sglang.routes import path_of
from pillion.sglang.settings import SglangProbeSettings, settings_of
from pillion.sglang.start import check_engine, check_pools, footprint
from pillion.sglang.step import ATTRIBUTE, step_of


@cache
def _settings() -> SglangProbeSettings:
    found = settings_of(os.environ)
    assert found is not None, "hooks are registered only where there are settings"
    return found


# -- in the scheduler's process, in the order of time


def alloc_memory_pool(plain: Any, runner: Any, *args: Any, **kwargs: Any) -> Any:
    """`ModelRunner`: there is a KV cache, so there is a side cache."""
    from sglang.srt.arg_groups.overrides import resolving_view

    out = plain(runner, *args, **kwargs)
    check_hooks()
    taps = getattr(runner.model, ATTRIBUTE, None)
    if taps is None:
        raise ConfigError(
            "SGLang has not loaded its model with probes; its log says why ('Ignore import error "
            "when loading pillion.sglang.models'). Start with `pillion sglang`."
        )
    check_engine(resolving_view(runner.server_args))
    check_pools(runner)
    settings, pool = _settings(), runner.token_to_kv_pool_allocator
    # A page before the first is SGLang's, for slots that no request reads.
    num_pages = pool.size // pool.page_size + 2
    device = torch.device(runner.device)
    places = num_pages, pool.page_size
    taps.reader = SglangStepReader(
        settings.load(), device, runner.dtype, *places, settings.reasoning
    )
    told = footprint(taps.reader, settings, pool.page_size, num_pages)
    logging.getLogger("sglang.pillion").info(told)
    return out


def init_new(plain: Any, kind: Any, batch: Any, runner: Any, **kwargs: Any) -> Any:
    """`ForwardBatch`: a step, whose requests are known here."""
    made = plain(kind, batch, runner, **kwargs)
    reader: SglangStepReader | None = runner.model.pillion.reader
    if reader is not None and batch.reqs and not batch.forward_mode.is_idle():
        table = runner.req_to_token_pool.req_to_token
        step = step_of(batch, made.seq_lens_cpu, table, reader, _settings().secret)
        setattr(made, ATTRIBUTE, step)
    return made


def forward(plain: Any, runner: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """`ModelRunner`: the pass; those that only warm up are no steps."""
    step = getattr(batch, ATTRIBUTE, None)
    if step is None:
        return plain(runner, batch, *args, **kwargs)
    taps = runner.model.pillion
    taps.begin(step)
    out = plain(runner, batch, *args, **kwargs)
    setattr(out.logits_output, ATTRIBUTE, (taps.reader, taps.end()))
    return out


def collect(plain: Any, processor: Any, index: int, req: Any, output: Any) -> Any:
    """`SchedulerBatchResultProcessor`: a request takes in the token of a step."""
    if (read := getattr(output, ATTRIBUTE, None)) is not None and (one := vars(req).get(ATTRIBUTE)):
        reader, step = read
        reader.settle(step)
        one.found = reader.latest.params(one.request)[KEY]
    return plain(processor, index, req, output)


def build(plain: Any, streamer: Any, reqs: list[Any]) -> Any:
    """`SchedulerOutputStreamer`: what goes out with the tokens of requests."""
    known = [vars(req).get(ATTRIBUTE) for req in reqs]
    return {**plain(streamer, reqs), KEY: [[one.found] if one else [] for one in known]}


# -- in the server's process


def update(
    plain: Any,
    manager: Any,
    meta_info: dict[str, Any],
    state: Any,
    info: Mapping[str, Any],
    index: int,
    reason: Any,
) -> Any:
    """`TokenizerManager`: it comes in; only the latest is kept."""
    others = {key: values for key, values in info.items() if key != KEY}
    for one in info.get(KEY, {index: ()})[index]:
        if one is not None:
            meta_info[KEY] = one
    return plain(manager, meta_info, state, others, index, reason)


def generate(plain: Any, manager: Any, asked: Any, request: Any = None) -> Any:
    """`TokenizerManager`: what the engine says of prompts."""
    if not hasattr(asked, "sampling_params"):
        return plain(manager, asked, request)
    engine_proxy().check_turns(asked)
    path = None if request is None else path_of(request.scope)
    return engine_proxy().with_verdicts(plain(manager, asked, request), asked, path)


def convert(plain: Any, serving: Any, request: Any, raw: Any = None) -> Any:
    """`OpenAIServingChat`: a conversation becomes a prompt."""
    engine_proxy().check_request(request)
    adapted, same = plain(serving, request, raw)
    engine_proxy().tell_turns(adapted, request, serving.tokenizer_manager.tokenizer)
    return adapted, same


_MANAGERS = "sglang.srt.managers"
_PARTS = f"{_MANAGERS}.scheduler_components"
_RUNNER = "sglang.srt.model_executor"
HOOKS: Mapping[str, Callable[..., Any]] = {
    f"{_RUNNER}.model_runner.ModelRunner.alloc_memory_pool": alloc_memory_pool,
    f"{_RUNNER}.forward_batch_info.ForwardBatch.init_new": init_new,
    f"{_RUNNER}.model_runner.ModelRunner.forward": forward,
    f"{_PARTS}.batch_result_processor.SchedulerBatchResultProcessor"
    "._maybe_collect_customized_info": collect,
    f"{_PARTS}.output_streamer.SchedulerOutputStreamer.build_additional_customized_info": build,
    f"{_MANAGERS}.tokenizer_manager.TokenizerManager.update_request_meta_info": update,
    f"{_MANAGERS}.tokenizer_manager.TokenizerManager.generate_request": generate,
    "sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat"
    "._convert_to_internal_request": convert,
}


def check_hooks() -> None:
    """Returns if SGLang has put all of them around its functions; it only logs where it could not.

    Raises:
        ConfigError: if it has not.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry

    if missing := [target for target in HOOKS if target not in HookRegistry._patched]:
        raise ConfigError(
            f"SGLang has not taken {len(missing)} of the hooks of the plugin 'pillion', the first "
            f"for {missing[0]}, so verdicts would be missing; SGLANG_PLUGINS is "
            f"{os.environ.get('SGLANG_PLUGINS')!r}: add pillion to it, and take other plugins away."
        )
