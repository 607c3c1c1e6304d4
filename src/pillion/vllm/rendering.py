"""Whose words are whose in conversations that vLLM's server renders itself.

vLLM writes what a turn says into its chat template as it is: a control token that is spelled there
would end the turn. So such a request is refused. Of the others the turns are told to the scheduler,
if what vLLM has made of them is what our own encoding makes. Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pillion.backends.codec import Codec
from pillion.backends.template import REASONING
from pillion.core import Tokens, as_conversation
from pillion.errors import ConfigError, DataError
from pillion.vllm.turns import TURNS, turns_args

Json = Mapping[str, Any]


class Rendering:
    """Stands between vLLM's renderer and its engine.

    Args:
        codec: the model's tokenizer, for this alone.
        scoped: whether a probe wants to know turns.
    """

    def __init__(self, codec: Codec, scoped: bool) -> None:
        self._codec, self._scoped = codec, scoped

    def watch(self, renderer: Any, engine: Any) -> None:
        """Sees what every endpoint renders, and hands it to the engine with its turns."""
        renderer.preprocess_chat = partial(self._preprocess, renderer.preprocess_chat)
        engine.generate = partial(_generate, engine.generate)

    async def _preprocess(self, plain: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        conversation, inputs = await plain(request, *args, **kwargs)
        for number, message in enumerate(conversation, 1):
            self.check(f"Message {number}", message)
        for name in ("tools", "documents"):
            self.check(f"One of the {name}", getattr(request, name, None))
        for one in inputs:
            if self._scoped and (ids := one.get("prompt_token_ids")):
                one[TURNS] = turns_args(self.tokens(conversation, ids))
        return conversation, inputs

    def check(self, name: str, message: Any) -> None:
        """Returns if a message, or what else is rendered, spells no control token.

        Args:
            name: how it is called, for the error.
            message: strings, mappings, lists of them.

        Raises:
            ValueError: it spells one; vLLM answers with status 400.
        """
        role = message.get("role") if isinstance(message, Mapping) else None
        for text in _texts(message):
            if role == "assistant":  # who may think; templates cut it off
                text = text.replace(REASONING[0], " ").replace(REASONING[1], " ")
            if (token := self._codec.spelled(text)) is not None:
                raise ValueError(
                    f"{name} spells the control token {token!r}, which would be taken for one; "
                    "write it in another way, or take it out."
                )

    def tokens(self, conversation: Sequence[Json], ids: Sequence[int]) -> Tokens:
        """What vLLM has rendered, with its turns; without, where ours would have other tokens."""
        try:
            known = self._codec.encode_chat(as_conversation(conversation))
        except (ConfigError, DataError):
            return Tokens(ids)
        return known if known == tuple(ids) else Tokens(ids)


def _generate(plain: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """`generate` of vLLM; turns that a client told itself are nobody's."""
    told = prompt.pop(TURNS, {}) if isinstance(prompt, dict) else {}
    others = {k: v for k, v in (params.extra_args or {}).items() if k != TURNS}
    if told or params.extra_args:
        params.extra_args = others | told
    return plain(prompt, params, *args, **kwargs)


def _texts(value: Any) -> Iterator[str]:
    """Every string in a message, and what its parts are together."""
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list):
        yield "".join(p["text"] for p in value if isinstance(p, Mapping) and _is_text(p))
        for inner in value:
            yield from _texts(inner)


def _is_text(part: Json) -> bool:
    return isinstance(part.get("text"), str)
