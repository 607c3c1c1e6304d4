"""The turns of conversations that vLLM's server renders, for its scheduler. Imports no vLLM."""

from __future__ import annotations

from functools import partial
from typing import Any

from pillion.riding.rendering import Rendering
from pillion.riding.turns import TURNS, turns_args


def watch(rendering: Rendering, renderer: Any, engine: Any) -> None:
    """Sees what every endpoint renders, and hands it to the engine with its turns."""
    renderer.preprocess_chat = partial(_preprocess, rendering, renderer.preprocess_chat)
    engine.generate = partial(_generate, engine.generate)


async def _preprocess(
    rendering: Rendering, plain: Any, request: Any, *args: Any, **kwargs: Any
) -> Any:
    conversation, inputs = await plain(request, *args, **kwargs)
    others = {name: getattr(request, name, None) for name in ("tools", "documents")}
    rendering.check_all(conversation, **others)
    for one in inputs:
        if rendering.scoped and (ids := one.get("prompt_token_ids")):
            one[TURNS] = turns_args(rendering.tokens(conversation, ids))
    return conversation, inputs


def _generate(plain: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    """`generate` of vLLM; drops turns that a client gives itself."""
    told = prompt.pop(TURNS, {}) if isinstance(prompt, dict) else {}
    others = {k: v for k, v in (params.extra_args or {}).items() if k != TURNS}
    if told or params.extra_args:
        params.extra_args = others | told
    return plain(prompt, params, *args, **kwargs)
