"""Texts and conversations to token ids and back, by a tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pillion.core import Template
from pillion.errors import ConfigError


class Codec:
    """A tokenizer as engines use it.

    Args:
        tokenizer: of transformers.
        name: of the model, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name

    def encode(self, text: str, template: Template) -> list[int]:
        """Token ids of a text, wrapped as the template says.

        Raises:
            ConfigError: `chat` for a tokenizer that has no chat template.
        """
        if template == "raw":
            return list(self.tokenizer(text)["input_ids"])
        return self.encode_chat([{"role": "user", "content": text}])

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation (`role`, `content`), up to where the answer begins.

        Raises:
            ConfigError: no chat template, or one that refuses these turns.
        """
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise ConfigError(f"Model {self.name!r} has no chat template; use --template raw.")
        try:
            wrapped = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                return_dict=True,
            )
        except TemplateError as error:  # a template may refuse roles, or their order
            raise ConfigError(
                f"The chat template of {self.name!r} refuses this conversation ({error}); "
                "give turns that it takes."
            ) from error
        return list(wrapped["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
