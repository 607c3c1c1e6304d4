"""What vLLM's engine process sends, step by step, before its frontend puts steps together.

Where a reader is slow, vLLM gives it several tokens at once, with the verdicts of the last only; a
policy that stops at a token needs those of every one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pillion.riding.latest_logits import KEY
from pillion.riding.report import LogitsByProbe


@dataclass
class Messages:
    """What has come for a request: logits of its prompt, and after each answer token."""

    prompt: LogitsByProbe = field(default_factory=LogitsByProbe)
    answers: dict[int, LogitsByProbe] = field(default_factory=dict[int, LogitsByProbe])

    def answer(self, num_read: int) -> LogitsByProbe:
        """Logits after that many answer tokens; none after none."""
        return self.answers.pop(num_read, LogitsByProbe())


class Inbox:
    """Follows vLLM's outputs on their way to its frontend."""

    def __init__(self) -> None:
        self._messages: dict[str, Messages] = {}
        self._probe_seconds = 0.0

    def watch(self, output_processor: Any) -> None:
        """Sees from now on what this output processor of vLLM is given."""
        plain = output_processor.process_outputs

        def process_outputs(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
            for output in outputs:
                self._take(output)
            return plain(outputs, *args, **kwargs)

        output_processor.process_outputs = process_outputs

    def of(self, request: str) -> Messages:
        """What has come for a request so far."""
        return self._messages.setdefault(request, Messages())

    def drop(self, request: str) -> None:
        """Forgets a request, and what came for it."""
        self._messages.pop(request, None)

    def stats(self) -> dict[str, float]:
        """Seconds that the worker has spent on probes."""
        return {"probe_seconds": self._probe_seconds}

    def _take(self, output: Any) -> None:
        found = (output.kv_transfer_params or {}).get(KEY)
        # vLLM adds eight random characters to the id that it is given.
        messages = self._messages.get(output.request_id.rsplit("-", 1)[0])
        if found is None or messages is None:
            return
        messages.prompt = found["prompt"]
        messages.answers[found["read"]] = found["response"]
        self._probe_seconds = max(self._probe_seconds, found["seconds"])
