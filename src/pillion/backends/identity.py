"""What can be told of a transformers model without running it: which model it is, its blocks.

Does not know its readers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pillion.backends.adapters import ActiveAdapters
from pillion.backends.fingerprint import Fingerprint, set_aside
from pillion.backends.rotation import rotation_of
from pillion.core import ModelIdentity
from pillion.errors import ConfigError

_NOT_OF_STATES = {
    *("architectures", "auto_map", "chunk_size_feed_forward", "dtype", "final_logit_softcapping"),
    *("id2label", "label2id", "max_position_embeddings", "n_positions", "num_labels"),
    *("pretraining_tp", "problem_type", "quantization_config", "return_dict", "torch_dtype"),
    *("router_aux_loss_coef", "router_jitter_noise", "task_specific_params", "use_cache"),
    *("tie_word_embeddings", "transformers_version", "use_mamba_kernels", "vocab_size"),
    *("output_attentions", "output_hidden_states", "output_router_logits"),
}
"""Of a configuration, what hidden states of given weights do not depend on."""
_NOT_OF_STATES_IN = ("_token_id", "dropout", "flash", "initializer", "pdrop", "summary_")
"""Parts of names of more of that."""


def identify(
    model: Any,
    tokenizer: Any,
    name: str,
    num_layers: int,
    dtype: torch.dtype,
    weights: Fingerprint,
    adapters: ActiveAdapters | None = None,
) -> ModelIdentity:
    """What a probe of this model belongs to.

    Args:
        model: of transformers.
        tokenizer: its tokenizer; None if unknown.
        name: as the user names the model.
        num_layers: blocks of its decoder.
        dtype: of its weights.
        weights: their fingerprint, that of active adapters included.
        adapters: which adapters are active; None for a model without any.
    """
    config = model.config.get_text_config()
    template = getattr(tokenizer, "chat_template", None) or ""
    return ModelIdentity(
        name=name or getattr(model.config, "_name_or_path", "") or type(model).__name__,
        weights_sha256=weights.sha256,
        tokenizer_sha256=tokenizer_sha256(tokenizer) if tokenizer is not None else "",
        template_sha256=hashlib.sha256(str(template).encode()).hexdigest() if template else "",
        num_layers=num_layers,
        dim=config.hidden_size,
        dtype=str(dtype).removeprefix("torch."),
        context_tokens=_context_tokens(config),
        adapters=() if adapters is None else adapters.active,
        float16_sha256=weights.float16_sha256,
        settings=dict(_settings(config.to_dict())),
    )


def _settings(told: dict[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    """What a configuration says of a model's arithmetic: full names, and values as JSON."""
    for name, value in told.items():
        if name.startswith("_") or name in _NOT_OF_STATES:
            continue
        if any(part in name for part in _NOT_OF_STATES_IN):
            continue
        if isinstance(value, dict):
            yield from _settings({str(k): v for k, v in value.items()}, f"{within}{name}.")
        else:
            yield within + name, json.dumps(_plain(value), default=str)


def _plain(value: Any) -> Any:
    """A whole number is written in one way, whether as 10000 or as 10000.0."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _context_tokens(config: Any) -> int:
    """Of the longest text whose states do not depend on those beside it."""
    most = int(getattr(config, "max_position_embeddings", None) or 2**31 - 1)
    rotation = rotation_of(config)
    return most if rotation is None else min(most, rotation.tokens)


def tokenizer_sha256(tokenizer: Any) -> str:
    """What tells a tokenizer of transformers from others, in hex."""
    fast: Any = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None and (fast.truncation or fast.padding):  # as the last call left them
        fast = type(fast).from_str(fast.to_str())
        fast.no_truncation()
        fast.no_padding()
    text = fast.to_str() if fast is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def find_blocks(model: Any) -> tuple[nn.Module, nn.ModuleList]:
    """The decoder of a causal LM and its list of blocks.

    Raises:
        ConfigError: for a model without exactly one list of as many blocks as it has layers.
    """
    config = getattr(model, "config", None)
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    count = config and getattr(config.get_text_config(), "num_hidden_layers", None)
    lists = [m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == count]
    if len(lists) != 1 or getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"{type(model).__name__} has no single list of {count} decoder blocks; pillion reads "
            "decoder-only causal LMs of transformers. Use one of those."
        )
    return decoder, lists[0]


def device_of(model: Any) -> torch.device:
    """Where a model takes its tokens: accelerate may bring weights there only while they are used.

    Raises:
        ConfigError: no installed package brings them.
    """
    embeddings = model.get_input_embeddings()
    weight = next(embeddings.parameters())
    if not weight.is_meta:
        return weight.device
    hook = set_aside(embeddings)
    if hook is None:
        raise ConfigError(
            f"{type(model).__name__} has no weights (device `meta`); load them, or let accelerate "
            "bring them (device_map)."
        )
    return torch.device(hook.execution_device)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens at which an answer of this model ends."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    if ends is None:
        ends = getattr(tokenizer, "eos_token_id", None)
    if ends is None:
        return frozenset()
    return frozenset(ends) if isinstance(ends, list) else frozenset([ends])
