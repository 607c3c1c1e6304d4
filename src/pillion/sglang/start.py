"""What must hold before SGLang serves, in one sentence where it does not. Imports no SGLang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pillion.core import ModelIdentity
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.probe.group import check_names
from pillion.sglang.adapter import SglangStepReader
from pillion.sglang.settings import SglangProbeSettings

PAGE_TOKENS = 16
"""Slots of a page, where nothing else is asked for: SGLang's own default is 1, a state a token."""
GRAPHS_OFF = ("--cuda-graph-backend-decode", "--cuda-graph-backend-prefill")
"""Options that are `disabled` unless a user gives them."""
POOLS = ("TokenToKVPoolAllocator", "PagedTokenToKVPoolAllocator")
"""Allocators of one pool of slots, in which a slot stays where it is."""


def check_probes(
    artefacts: Sequence[Artefact], identity: ModelIdentity, allow_mismatch: bool = False
) -> None:
    """Returns if the probes can ride in this model.

    Raises:
        MismatchError: one belongs to another model.
        ConfigError: two of one name.
    """
    check_names([a.name for a in artefacts])
    for artefact in artefacts:
        artefact.check(identity, allow_mismatch)


def check_engine(args: Any) -> None:
    """Returns if SGLang is to run in a way that probes ride with.

    Args:
        args: its options, resolved.

    Raises:
        ConfigError: naming what they do not ride with.
    """
    graphs = args.cuda_graph_config
    on = [name for name in ("decode", "prefill") if getattr(graphs, name).backend != "disabled"]
    apart = {
        f"graphs of {' and '.join(on)}, which replay a pass without its hooks": bool(on),
        "torch.compile, which leaves out hooks": args.enable_torch_compile,
        f"tp_size={args.tp_size}: one process has to see whole states": args.tp_size > 1,
        f"pp_size={args.pp_size}, where no process has all layers": args.pp_size > 1,
        f"dp_size={args.dp_size}: a request has to stay in one scheduler": args.dp_size > 1,
        f"attn_cp_size={args.attn_cp_size} and dcp_size={args.dcp_size}, where a text is in "
        "pieces": args.attn_cp_size > 1 or args.dcp_size > 1,
        f"nnodes={args.nnodes}": args.nnodes > 1,
        f"speculative_algorithm={args.speculative_algorithm}, whose rejected tokens they would "
        "have read": args.speculative_algorithm is not None,
        f"disaggregation_mode={args.disaggregation_mode}: prompts and answers have to be in one "
        "engine": args.disaggregation_mode != "null",
        "an encoder of its own": args.encoder_only or args.language_only,
        "LoRA adapters, whose states no probe has seen": bool(args.enable_lora or args.lora_paths),
        "a cache outside the device (hierarchical, LMCache, FlexKV, external), whose pages come "
        "back without what probes keep of them": args.enable_hierarchical_cache
        or args.enable_lmcache
        or args.enable_flexkv
        or args.enable_unified_cache_external_linker,
        f"radix_cache_backend={args.radix_cache_backend}": args.radix_cache_backend is not None,
        "enable_unified_memory or enable_hisparse, which move slots": args.enable_unified_memory
        or args.enable_hisparse,
        "sessions that hold slots of their own": args.enable_streaming_session
        or args.enable_session_radix_cache,
        "two batches in one pass": args.enable_two_batch_overlap or args.enable_pdmux,
        "a diffusion model's steps (dllm_algorithm)": args.dllm_algorithm is not None,
        "several prompts in one (enable_mis)": args.enable_mis,
        "prompts that are not cached (prefill_only_disable_kv_cache)": (
            args.prefill_only_disable_kv_cache
        ),
        "embeddings (is_embedding), which generate nothing": args.is_embedding,
        f"tokenizer_worker_num={args.tokenizer_worker_num}: verdicts are told by one process": (
            args.tokenizer_worker_num > 1
        ),
        "skip_tokenizer_init": args.skip_tokenizer_init,
        "gRPC, HTTP/2 or Ray, whose answers carry no verdicts": bool(
            args.smg_grpc_mode
            or args.grpc_mode
            or args.grpc_port
            or args.enable_http2
            or args.use_ray
        ),
        "enable_memory_saver, which takes the weights away": args.enable_memory_saver,
        "forward_hooks of others": bool(args.forward_hooks),
    }
    for what, is_on in apart.items():
        if is_on:
            raise ConfigError(f"Probes do not ride in SGLang with {what}; start it without.")


def check_numbers(args: Any, is_quantised: bool) -> None:
    """Returns if the model computes what its files say.

    Args:
        args: SGLang's options, resolved.
        is_quantised: whether the files hold quantised weights.

    Raises:
        ConfigError: naming what gives it other numbers.
    """
    tokenizer = args.tokenizer_path not in (None, args.model_path)
    changed = {
        f"quantization={args.quantization}": args.quantization is not None,
        "quantised weights (quantization_config), which SGLang reads otherwise than the probes' "
        "training did,": is_quantised,
        f"load_format={args.load_format}": args.load_format not in ("auto", "safetensors"),
        "json_model_override_args": args.json_model_override_args not in (None, "", "{}"),
        f"kv_cache_dtype={args.kv_cache_dtype}": args.kv_cache_dtype not in ("auto", args.dtype),
        f"model_impl={args.model_impl}": args.model_impl not in ("auto", "sglang"),
        f"tokenizer_path={args.tokenizer_path}": tokenizer,
        "a chat template of its own (chat_template, hf_chat_template_name)": (
            args.chat_template is not None or args.hf_chat_template_name is not None
        ),
        "offloaded or cached weights": args.cpu_offload_gb > 0 or args.kt_weight_path is not None,
    }
    for what, is_on in changed.items():
        if is_on:
            raise ConfigError(
                f"{what[0].upper()}{what[1:]} gives this model other hidden states or tokens than "
                "its files, so that probes would read other numbers; start SGLang without it, or "
                "save the model as it is to run and train probes on that."
            )


def check_pools(runner: Any) -> None:
    """Returns if the KV cache is one pool of slots.

    Args:
        runner: SGLang's `ModelRunner`, with its memory.

    Raises:
        ConfigError: it is several, as of sliding windows or states, or its slots move.
    """
    kind, table = type(runner.token_to_kv_pool_allocator).__name__, type(runner.req_to_token_pool)
    if kind not in POOLS or table.__name__ != "ReqToTokenPool":
        raise ConfigError(
            f"SGLang keeps this model's cache in several pools ({kind}, {table.__name__}), and "
            "probes ride in models with one; serve it with `pillion serve`."
        )


def footprint(
    reader: SglangStepReader, settings: SglangProbeSettings, page_tokens: int, num_pages: int
) -> str:
    """What riding costs in memory, in a sentence."""
    held, slots = reader.reading.side.held_bytes, page_tokens * num_pages
    dear = " Pages of one token keep a state a token; give a page size of 16." * (page_tokens == 1)
    return (
        f"Probes {', '.join(settings.probes)} read {len(reader.reading.layers)} layers: the side "
        f"cache takes {held / 1e6:,.1f} MB for {slots:,} tokens of KV cache "
        f"({held / slots:,.0f} bytes a token).{dear}"
    )
