"""Configurations of every architecture that transformers knows as a causal LM, as small as it gets.

Sizes are set by the names that configurations give them; what an architecture asks for beyond
that stands in `OWN`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

VOCAB, DIM, LAYERS, POSITIONS = 96, 32, 4, 256
WINDOW = 8

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), VOCAB),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim"), DIM),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "n_head_kv", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_head", "global_head_dim", "kv_channels"), 8),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "d_ff",
            "n_inner",
            "moe_intermediate_size",
            "shared_intermediate_size",
            "ffn_hidden_size",
            "expert_ffn_hidden_size",
            "dim_ff",
            "dff",
            "shared_expert_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "intermediate_size_mlp",
            "dense_intermediate_size",
            "prefix_dense_intermediate_size",
            "block_ff_dim",
        ),
        48,
    ),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"),
        POSITIONS,
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "experts_per_token"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), WINDOW),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "is_decoder": True,
    "tie_word_embeddings": False,
}

OWN: dict[str, dict[str, Any]] = {
    "bamba": {
        "attn_layer_indices": [1, 3],
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
    },
    "blenderbot": {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 48},
    "codegen": {"rotary_dim": 4},
    "cwm": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"] * 2,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
    },
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "modernbert-decoder": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "zamba2": {"layer_types": None, "num_mem_blocks": 1},
    "zaya": {"num_experts_per_tok": 1},
}

COMPOSITE = {
    "fuyu",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4_assistant",
    "gemma4_unified",
    "gemma4_unified_assistant",
    "git",
    "got_ocr2",
    "llama4",
    "mllama",
    "moss_transcribe_diarize",
    "musicgen",
    "musicgen_melody",
    "phi4_multimodal",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen4_exp",
    "emu3",
    "blt",
    "dots3_note",
    "inkling2_loop_text",
}
"""Models of images, sound or bytes around a language model, which stands here by a name of its own;
one of them alone takes longer to make than all others."""


def architectures() -> list[str]:
    """Names of all that transformers knows as causal LMs."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - COMPOSITE)


def tiny_config(name: str) -> Any:
    """A small configuration of an architecture."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = CONFIG_MAPPING[name]
    given = {**SIZES, **_layer_types(kind), **OWN.get(name, {})}
    known = inspect.signature(kind.__init__).parameters
    if getattr(kind, "sliding_window", None) is None and "layer_types" not in given:
        given.pop("sliding_window", None)  # it has no windows unless they are asked for
    if "kv_lora_rank" in known:  # latent attention: keys are made for every head
        given |= {"num_key_value_heads": 4} | OWN.get(name, {})
        given.pop("head_dim", None)
    return kind(**{key: value for key, value in given.items() if key in known})


def tiny(name: str, seed: int = 0) -> Any:
    """A random causal LM of an architecture, in fp32."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32)
    return model.eval()


def _layer_types(kind: type) -> dict[str, Any]:
    """Every kind of layer that the architecture mixes, in turn."""
    try:
        types = getattr(kind(), "layer_types", None)
    except Exception:  # a configuration without defaults says nothing of layers
        return {}
    if not types:
        return {}
    kinds = list(dict.fromkeys(types))
    return {"layer_types": [kinds[i % len(kinds)] for i in range(LAYERS)]}
