"""Takes probes' logits out of vLLM's outputs, where the handlers of HTTP requests ask for them.

Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from pillion.riding.bodies import FILTERED
from pillion.riding.latest_logits import KEY
from pillion.riding.request_verdicts import PROBE_SECONDS, REQUEST_VERDICTS, EnginePrompt
from pillion.vllm.guard import MARK


def take_logits(prompt: EnginePrompt, output: Any) -> None:
    """Takes the logits and the policy's mark out of an output."""
    others = dict(output.kv_transfer_params or {})
    # An output that tells of an abort carries nothing.
    prompt.found = others.pop(KEY, prompt.found)
    output.kv_transfer_params = others or None
    for answer in output.outputs:
        if answer.stop_reason != MARK:
            continue
        prompt.filtered, answer.finish_reason, answer.stop_reason = True, FILTERED, None
        answer.text = prompt.refusal or answer.text


def listen(engine: Any) -> None:
    """From now on, takes the logits out of all outputs for HTTP requests."""
    engine.generate = partial(_generate, engine.generate)


def _generate(plain: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    outputs, request = plain(prompt, params, *args, **kwargs), REQUEST_VERDICTS.get()
    return outputs if request is None else _without_logits(outputs, request.begin(params.n))


async def _without_logits(
    outputs: AsyncGenerator[Any], prompt: EnginePrompt
) -> AsyncGenerator[Any]:
    """The outputs, without logits."""
    async with aclosing(outputs):
        async for output in outputs:
            take_logits(prompt, output)
            if prompt.found:
                PROBE_SECONDS.update(prompt.found["seconds"])
            yield output
