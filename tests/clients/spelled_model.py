"""A checkpoint that calls a tool and answers, spelled out in its weights: nothing is trained.

Each token is followed by the one that `_FOLLOWS` names. Where a grammar bars that one, JSON ends as
soon as it may. The last token of its chat template says whether a call is due.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

CALL = (
    *("<|calls|>", "<tool_call>", '\n{"name": "', "weather", '", "arguments": {"', "city"),
    *('": "', "Paris", '"}}\n', "</tool_call>", "<|im_end|>"),
)
"""After a user's turn, where there are tools."""
ANSWER = ("<|says|>", "It", " rains", " in", " Paris", " today.", "<|im_end|>")
"""Everywhere else, and after the tool's result."""

HARM = (("b", "o"), ("m", "b"), ("bo", "mb"))
"""Merges of a word that is one token, so that a probe can tell texts with it."""

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|calls|>", "<|says|>")
LIKED = {'"': 50.0, "}": 40.0, "]": 30.0, "{": 20.0, "0": 10.0}
"""Logits after any other token; of those that are not named, 0."""

TEMPLATE = (
    "{% if tools %}<|im_start|>system\nCall tools as <tool_call></tool_call>:"
    "{% for t in tools %}\n{{ t | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    '{% for c in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ c.function.name }}", '
    '"arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<|calls|>' if tools and messages[-1].role != 'tool' else '<|says|>' }}{% endif %}"
)


def save_spelled_model(folder: Path) -> None:
    """Writes the checkpoint with its tokenizer."""
    tokenizer = _tokenizer()
    _model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = ["".join(pair) for pair in HARM]
    vocab = {piece: number for number, piece in enumerate([*letters, *merged])}
    pieces = Tokenizer(models.BPE(vocab=vocab, merges=list(HARM)))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces.decoder = decoders.ByteLevel()
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        additional_special_tokens=list(SPECIAL),
        eos_token="<|im_end|>",
        model_max_length=8192,
    )
    spelled = [word for word in (*CALL, *ANSWER) if word not in SPECIAL]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in spelled])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _model(tokenizer: Any) -> Any:
    """Layers that add little to a token's own direction, and a head that reads that direction."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(tokenizer)
    dim = 32 * (size // 32 + 1)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=dim,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        initializer_range=1e-3,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size, dim))
        # The final norm brings a direction to the length of sqrt(dim).
        model.lm_head.weight.copy_(torch.nn.functional.pad(_logits(tokenizer), (0, dim - size)))
        model.lm_head.weight.div_(dim**0.5)
    return model


def _logits(tokenizer: Any) -> torch.Tensor:
    """[next token, token]."""
    logits = torch.zeros(len(tokenizer), len(tokenizer))
    for letter, liking in LIKED.items():
        logits[tokenizer.convert_tokens_to_ids(letter)] = liking
    for chain in (CALL, ANSWER):
        ids = tokenizer.convert_tokens_to_ids(list(chain))
        for token, after in pairwise(ids):
            logits[after, token] = 80.0
    return logits
