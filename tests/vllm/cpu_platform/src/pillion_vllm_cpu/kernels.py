"""Plain versions of the `torch.ops._C` kernels that vLLM calls on a CPU.

Correct before fast: in fp32 attention gives the numbers of torch's own. Names and schemas are those
of `vllm/_custom_ops.py` and `vllm/utils/cpu_triton_utils.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_library: torch.library.Library | None = None


def register() -> None:
    """Defines the kernels, once a process."""
    global _library
    if _library is not None:
        return
    _library = torch.library.Library("_C", "FRAGMENT")
    for schema, function in _KERNELS.items():
        _library.define(schema)
        name = schema.split("(", 1)[0]
        takes_tensors = name != "init_cpu_memory_env"
        _library.impl(name, function, "CPU" if takes_tensors else "CompositeExplicitAutograd")


def compute_slot_mapping_kernel(  # called with the names of the Triton kernel
    num_tokens: int,
    max_num_tokens: int,
    query_start_loc_ptr: Tensor,
    positions_ptr: Tensor,
    block_table_ptr: Tensor,
    block_table_stride: int,
    slot_mapping_ptr: Tensor,
    KV_CACHE_BLOCK_SIZE: int,
    TOTAL_CP_WORLD_SIZE: int = 1,
    TOTAL_CP_RANK: int = 0,
    CP_KV_CACHE_INTERLEAVE_SIZE: int = 1,
    PAD_ID: int = -1,
    BLOCK_SIZE: int = 1024,
) -> None:
    """Where each token of a step lies in the KV cache; -1 beyond the last."""
    assert TOTAL_CP_WORLD_SIZE == 1
    _slot_mapping(
        query_start_loc_ptr, positions_ptr, block_table_ptr, slot_mapping_ptr, KV_CACHE_BLOCK_SIZE
    )


def _slot_mapping(
    starts: Tensor, positions: Tensor, block_table: Tensor, out: Tensor, block_size: int
) -> None:
    num_tokens = int(starts[-1])
    lengths = starts.long().diff()
    request = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    position = positions[:num_tokens].long()
    block = block_table[request, position // block_size].long()
    out[:num_tokens] = block * block_size + position % block_size
    out[num_tokens:] = -1


def _scheduler_metadata(*_: Any) -> Tensor:
    return torch.empty(0, dtype=torch.int8)


def _reshape_and_cache(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor, *_: Any
) -> None:
    """Keys and values [token, head, dim] into caches [block, head, token, dim]; slot -1 is none."""
    block_size = key_cache.shape[2]
    kept = (slots >= 0).nonzero()[:, 0]
    block, offset = slots[kept].long() // block_size, slots[kept].long() % block_size
    key_cache[block, :, offset] = key[kept].to(key_cache.dtype)
    value_cache[block, :, offset] = value[kept].to(value_cache.dtype)


def _attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    output: Tensor,
    starts: Tensor,
    lengths: Tensor,
    scale: float,
    causal: bool,
    alibi_slopes: Tensor | None,
    window: int,
    block_table: Tensor,
    softcap: float,
    scheduler_metadata: Tensor,
    sinks: Tensor | None,
    dynamic_causal: Tensor | None,
    *_: Any,
) -> None:
    """Attention of a packed batch, a request at a time, each to its own blocks."""
    assert alibi_slopes is None and sinks is None and dynamic_causal is None and not softcap
    bounds = starts.tolist()
    for i, total in enumerate(lengths.tolist()):
        begin, end = bounds[i], bounds[i + 1]
        if end > begin:
            blocks = block_table[i, : -(-total // key_cache.shape[2])].long()
            keys, values = (
                _rows_of(cache, blocks, total, query) for cache in (key_cache, value_cache)
            )
            mask = _mask(end - begin, total, causal, window)
            out = F.scaled_dot_product_attention(
                query[begin:end].transpose(0, 1)[None],
                keys[None],
                values[None],
                attn_mask=mask,
                scale=scale,
            )[0]
            output[begin:end].view(end - begin, *out.shape[::2]).copy_(out.transpose(0, 1))


def _rows_of(cache: Tensor, blocks: Tensor, total: int, query: Tensor) -> Tensor:
    """[head, token, dim] of a request, each head as often as queries share it."""
    heads, dim = cache.shape[1], cache.shape[3]
    rows = cache[blocks].transpose(0, 1).reshape(heads, -1, dim)[:, :total]
    return rows.to(query.dtype).repeat_interleave(query.shape[1] // heads, 0)


def _mask(num_queries: int, total: int, causal: bool, window: int) -> Tensor | None:
    if not causal or (num_queries == 1 and window <= 0):
        return None
    query = torch.arange(total - num_queries, total)[:, None]
    key = torch.arange(total)
    return (key <= query) & ((key > query - window) if window > 0 else True)


def _gumbel_argmax(logits: Tensor, seeds: Tensor) -> Tensor:
    """Draws from the softmax of logits, each row by its own seed."""
    drawn = torch.empty(len(logits), dtype=torch.long)
    for row, seed in enumerate(seeds.tolist()):
        noise = torch.empty_like(logits[row])
        noise.exponential_(generator=torch.Generator().manual_seed(seed))
        drawn[row] = (logits[row].softmax(-1) / noise).argmax()
    return drawn


def _packed_linear(
    output: Tensor, x: Tensor, packed: Tensor, bias: Tensor | None, is_packed: bool
) -> None:
    """The product of a small weight on processors with AMX; nothing is packed here."""
    assert is_packed
    output.copy_(F.linear(x.float(), packed.float(), bias))


_KERNELS: dict[str, Callable[..., Any]] = {
    "init_cpu_memory_env(int[] nodes) -> str": lambda nodes: "",
    "get_scheduler_metadata(int num_reqs, int num_heads, int num_kv_heads, int head_dim,"
    " Tensor seq_lens, ScalarType dtype, Tensor query_start_loc, bool causal,"
    " int sliding_window_size, str isa, bool enable_kv_split,"
    " Tensor? dynamic_causal, str kv_cache_dtype) -> Tensor": _scheduler_metadata,
    "cpu_attn_reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache,"
    " Tensor(b!) value_cache, Tensor slot_mapping, str isa, float k_scale,"
    " float v_scale, str kv_cache_dtype) -> ()": _reshape_and_cache,
    "cpu_attention_with_kv_cache(Tensor query, Tensor key_cache, Tensor value_cache,"
    " Tensor(a!) output, Tensor query_start_loc, Tensor seq_lens, float scale,"
    " bool causal, Tensor? alibi_slopes, int sliding_window, Tensor block_table,"
    " float softcap, Tensor scheduler_metadata, Tensor? s_aux, Tensor? dynamic_causal,"
    " float k_scale, float v_scale, str kv_cache_dtype) -> ()": _attention,
    "convert_weight_packed(Tensor weight) -> Tensor": torch.clone,
    "weight_packed_linear(Tensor(a!) output, Tensor x, Tensor packed_weight, Tensor? bias,"
    " bool is_packed) -> ()": _packed_linear,
    "greedy_argmax(Tensor logits) -> Tensor": lambda logits: logits.argmax(-1).view(-1),
    "fused_gumbel_argmax(Tensor logits, Tensor seeds) -> Tensor": _gumbel_argmax,
    "compute_slot_mapping_kernel_impl(Tensor query_start_loc, Tensor positions,"
    " Tensor block_table, Tensor(a!) slot_mapping, int block_size) -> ()": _slot_mapping,
}
