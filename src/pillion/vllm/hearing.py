"""What vLLM's engine says of the prompts of an HTTP request, heard where its handlers ask for it.

Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from pillion.riding.ledger import KEY
from pillion.riding.seen import SEEN, SPENT, Call
from pillion.riding.telling import FILTERED
from pillion.vllm.guard import MARK


def hear(call: Call, output: Any) -> None:
    """Takes what is ours out of an output."""
    others = dict(output.kv_transfer_params or {})
    # An output that tells of an abort carries nothing.
    call.found = others.pop(KEY, call.found)
    output.kv_transfer_params = others or None
    for answer in output.outputs:
        if answer.stop_reason != MARK:
            continue
        call.filtered, answer.finish_reason, answer.stop_reason = True, FILTERED, None
        answer.text = call.refusal or answer.text


def listen(engine: Any) -> None:
    """Follows from now on what an engine of vLLM gives to HTTP requests."""
    engine.generate = partial(_generate, engine.generate)


def _generate(plain: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
    outputs, seen = plain(prompt, params, *args, **kwargs), SEEN.get()
    return outputs if seen is None else _heard(outputs, seen.begin(params.n))


async def _heard(outputs: AsyncGenerator[Any], call: Call) -> AsyncGenerator[Any]:
    """The outputs, without what is ours."""
    async with aclosing(outputs):
        async for output in outputs:
            hear(call, output)
            if call.found:
                SPENT.hear(call.found["seconds"])
            yield output
