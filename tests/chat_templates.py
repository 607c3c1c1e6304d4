"""Chat templates in the shape of well-known ones, written for these tests, and their tokenizer."""

from __future__ import annotations

from typing import Any

from pillion.backends.transformers import TransformersBackend
from tiny_models import tiny_model

TEMPLATES: dict[str, str] = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama3": (
        "<|bos|>{% for m in messages %}<|header|>{{ m.role }}<|end_header|>\n\n"
        "{{ m.content | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
    ),
    # The system turn goes in front of the last user's.
    "mistral": (
        "<|bos|>{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = m.content + '\n\n' %}"
        "{% elif m.role == 'user' %}[INST] {% if loop.last %}{{ ns.system }}{% endif %}"
        "{{ m.content }} [/INST]{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content | tojson }}"
        "[/TOOL_RESULTS]{% else %} {{ m.content }}<|eos|>{% endif %}{% endfor %}"
    ),
    # Another name for the assistant; the system turn is merged into the first user's.
    "gemma": (
        "<|bos|>{% if messages[0].role == 'system' %}{% set first = messages[0].content | trim + "
        "'\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}"
        "{% set rest = messages %}{% endif %}{% for m in rest %}<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{% if loop.first %}{{ first }}{% endif %}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    # Reasoning is cut off all answers but those behind the last user's turn.
    "qwen3": (
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
        "{% set words = m.content %}{% set thought = '' %}"
        "{% if m.role == 'assistant' and '</think>' in words %}"
        "{% set thought = words.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if m.role == 'tool' %}<tool_response>\n{{ words }}\n</tool_response>"
        "{% elif thought and loop.index0 > ns.last %}<think>\n{{ thought }}\n"
        "</think>\n\n{{ words }}"
        "{% else %}{{ words }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "harmony": (
        "<|start|>system<|message|>Reasoning: low<|end|>{% for m in messages %}"
        "{% if m.role == 'system' %}<|start|>developer<|message|># Instructions\n\n"
        "{{ m.content }}"
        "<|end|>{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>"
        "{{ m.content }}<|end|>{% elif m.role == 'tool' %}"
        "<|start|>functions to=assistant<|channel|>commentary<|message|>"
        "{{ m.content | tojson }}<|end|>{% else %}<|start|>user<|message|>"
        "{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
    "command-r": (
        "<|bos|>{% for m in messages %}<|START_TURN|>{% if m.role == 'user' %}<|USER|>"
        "{% elif m.role == 'assistant' %}<|CHATBOT|>{% else %}<|SYSTEM|>{% endif %}"
        "{% if m.role == 'tool' %}<results>\n{{ m.content }}</results>{% else %}"
        "{{ m.content.strip() }}{% endif %}<|END_TURN|>{% endfor %}"
        "{% if add_generation_prompt %}<|START_TURN|><|CHATBOT|>{% endif %}"
    ),
    # The system turn becomes a part of the first user's.
    "merging": (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {% if loop.index0 == 1 and "
        "messages[0].role == 'system' %}<<SYS>>\n{{ messages[0].content }}\n<</SYS>>\n\n{% endif %}"
        "{{ m.content }} [/INST]{% elif m.role != 'system' %} {{ m.content }} <|eos|>{% endif %}"
        "{% endfor %}"
    ),
    "hermes-tools": (
        "{% if tools %}<|im_start|>system\n# Tools\n\nFunctions within <tools></tools>:\n<tools>"
        "{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n</tools>\n\nFor each call give an "
        "object within <tool_call></tool_call>:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}'
        "\n</tool_call><|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
        "{% if m.role == 'tool' %}<tool_response>\n{{ m.content }}\n</tool_response>"
        "{% else %}{{ m.content }}{% endif %}"
        '{% for c in m.tool_calls or [] %}\n<tool_call>\n{"name": "{{ c.function.name }}", '
        '"arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    # Tools stand in the first turn of the user.
    "llama3-tools": (
        "<|bos|>{% for m in messages %}<|header|>"
        "{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header|>\n\n"
        "{% if tools and m.role == 'user' and loop.index0 == messages[:1] | "
        "selectattr('role', 'equalto', 'system') | list | length %}"
        'Respond in the format {"name": function name, "parameters": dictionary of argument name '
        "and its value}.\n{% for t in tools %}{{ t | tojson }}\n\n{% endfor %}{% endif %}"
        "{% if m.tool_calls %}"
        '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
        "{{ m.tool_calls[0].function.arguments | tojson }}}"
        "{% else %}{{ m.content | trim }}{% endif %}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|header|>assistant<|end_header|>\n\n{% endif %}"
    ),
    "mistral-tools": (
        "<|bos|>{% for m in messages %}{% if m.role in ['user', 'system'] %}"
        "{% if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]"
        "{% endif %}[INST] {{ m.content }} [/INST]"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS] {\"content\": {{ m.content | tojson }}, "
        '"call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]'
        "{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}"
        "{{ c.function | tojson }}{{ ', ' if not loop.last }}{% endfor %}]<|eos|>"
        "{% else %} {{ m.content }}<|eos|>{% endif %}{% endfor %}"
    ),
}
"""Name -> Jinja source."""

CONTROL: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|bos|>", "<|header|>", "<|end_header|>", "<|eot|>"),
    "mistral": ("<|bos|>", "<|eos|>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    "gemma": ("<|bos|>", "<start_of_turn>", "<end_of_turn>"),
    "qwen3": (
        *("<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        *("<tool_response>", "</tool_response>"),
    ),
    "harmony": ("<|start|>", "<|message|>", "<|end|>", "<|channel|>"),
    "command-r": (
        "<|bos|>",
        "<|START_TURN|>",
        "<|END_TURN|>",
        "<|USER|>",
        "<|CHATBOT|>",
        "<|SYSTEM|>",
    ),
    "merging": ("<|eos|>",),
    "hermes-tools": (
        *("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"),
        *("<tool_response>", "</tool_response>"),
    ),
    "llama3-tools": ("<|python_tag|>", "<|header|>", "<|end_header|>", "<|eot|>", "<|bos|>"),
    "mistral-tools": ("[TOOL_CALLS]", "[INST]", "[/INST]", "<|eos|>", "<|bos|>", "[TOOL_RESULTS]"),
}
"""The tokens of each template that are no text; `merging` writes its brackets as letters."""

VOCAB = 256 + max(map(len, CONTROL.values()))


def chat_backend(name: str = "chatml") -> TransformersBackend:
    """A tiny model, the same each time, with the tokenizer of a template."""
    return TransformersBackend(tiny_model(vocab=VOCAB), chat_tokenizer(name), "tiny")


def chat_tokenizer(name: str) -> Any:
    """A token a byte, a few merged ones, and the control tokens of a template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    bytes_only = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    # Half of them are marked as special; the others are known by the template alone.
    special = list(CONTROL[name][::2])
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, additional_special_tokens=special
    )
    tokenizer.add_tokens([token for token in CONTROL[name] if token not in special])
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer
