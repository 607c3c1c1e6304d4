"""Answers of a request for several: each has what was read of it, wherever they were made.

vLLM runs them as requests of their own and hands on what came with the last of them alone. Its
frontend knows them all: there each output gets the latest of its siblings. Imports no vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import wraps
from typing import Any

from pillion.riding.latest_logits import KEY

_ANSWERS = "pillion_answers"
"""Attribute of vLLM's request for several answers: index -> what was read of that answer."""


def watch(processor_class: Any) -> None:
    """Sees from now on what output processors of this class of vLLM are given."""
    plain = processor_class.process_outputs
    if getattr(plain, "gathers", False):
        return

    @wraps(plain)
    def process_outputs(self: Any, outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            gather(output, self.request_states.get(output.request_id))
        return plain(self, outputs, *args, **kwargs)

    process_outputs.gathers = True  # type: ignore[attr-defined]
    processor_class.process_outputs = process_outputs


def gather(output: Any, state: Any) -> None:
    """Puts what was read of all answers to a request under `choices` of what an output carries.

    One mapping serves all outputs of the request: it goes on with them, and an answer that has
    ended keeps what it ended with.

    Args:
        output: of the engine, for one answer.
        state: what the frontend knows of that answer; None once it has ended.
    """
    found = (output.kv_transfer_params or {}).get(KEY)
    if found is None or state is None or state.parent_req is None:
        return
    answers = vars(state.parent_req).setdefault(_ANSWERS, {})
    answers[str(state.request_index)] = {key: found[key] for key in ("response", "read")}
    found["choices"] = answers
