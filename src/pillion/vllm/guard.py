"""Policies in `vllm serve`: what its engine gives out is judged before it is made into text.

Stands in front of vLLM's output processor, where vLLM looks for stop strings: every step of every
request comes by there, whatever its client reads. Imports no vLLM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

from pillion.core import Verdict
from pillion.errors import ConfigError, StateError
from pillion.policies import Policies, Policy, decide, fails_closed, hold_back
from pillion.probe import Artefact
from pillion.riding.latest_logits import KEY, REFUSAL
from pillion.riding.metrics import ACTIONS
from pillion.riding.report import LogitsByProbe
from pillion.riding.verdicts import verdicts_by_name

MARK = "\0content_filter"
"""The same in vLLM's outputs, where strings that end an answer are told too."""
_HELD = "pillion_held"
"""Attribute of what vLLM's frontend knows of a request: its outputs that wait."""
_EXPECTED = "pillion_expected"
"""Attribute of vLLM's class of output processors: whether a guard has to stand in front of each."""
_GUARDED = "pillion_guarded"
"""Attribute of an output processor in front of which a guard stands."""


class PolicyGuard:
    """Follows policies.

    Args:
        probes: that ride.
        policies: `block`, `stop` and `annotate` alone.
        stop: vLLM's reason of an answer that ends by itself.
    """

    def __init__(self, probes: Sequence[Artefact], policies: Policies, stop: Any) -> None:
        self._prompt, self._response = policies.of("prompt"), policies.of("response")
        named = {policy.probe for policy in policies.policies}
        self._probes = [probe for probe in probes if probe.name in named]
        self._hold, self._stop = hold_back(self._response), stop
        self._closed = self._hold > 0 and fails_closed(self._response)

    def watch(self, processor: Any) -> None:
        """Judges from now on what this output processor of vLLM is given."""
        plain = processor.process_outputs

        def process_outputs(outputs: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
            passed, ended = list[Any](), list[str]()
            for output in outputs:
                state = processor.request_states.get(output.request_id)
                passed += [output] if state is None else self._pass(output, state, ended)
            result = plain(passed, *args, **kwargs)
            # For the engine they go on.
            result.reqs_to_abort.extend(ended)
            return result

        processor.process_outputs = process_outputs
        setattr(processor, _GUARDED, True)

    # -- inside

    def _pass(self, output: Any, state: Any, ended: list[str]) -> list[Any]:
        """What takes an output's place: itself, those before it that waited, or none."""
        found = (output.kv_transfer_params or {}).get(KEY)
        if found is None and output.finish_reason is not None:
            return [output]  # of a fault, or given up
        is_first = _HELD not in vars(state)
        held: deque[Any] = vars(state).setdefault(_HELD, deque())
        held.append(output)
        if is_first:
            act = self._act(self._prompt, found["prompt"] if found else {})
            if act is not None:
                if found is not None:
                    found[REFUSAL] = act.refused
                return [self._end(held, ended)]
        read, numbers = (found["read"], found["response"]) if found else (0, {})
        if self._act(self._response, numbers, read) is not None:
            return [self._end(held, ended)]
        if output.finish_reason is not None:
            if self._closed and str(output.finish_reason) == "length":
                # The last token was drawn and never read.
                output.new_token_ids, output.new_logprobs = [], None
            passed = list(held)
            held.clear()
            return passed
        return [held.popleft() for _ in range(len(held) - self._hold)]

    def _act(
        self, policies: Sequence[Policy], numbers: LogitsByProbe, num_tokens: int | None = None
    ) -> Policy | None:
        if not policies:
            return None
        act = decide(policies, self._verdicts(numbers), num_tokens=num_tokens).act
        if act is not None:
            ACTIONS.labels(act.probe, act.action, "false").inc()
        return act

    def _verdicts(self, numbers: LogitsByProbe) -> Mapping[str, Verdict]:
        try:
            return verdicts_by_name(numbers, self._probes)
        except StateError:  # told beside the answer; for a policy, a verdict is missing
            return {}

    def _end(self, held: deque[Any], ended: list[str]) -> Any:
        """An output that ends the answer without what waited, of which the last came just now."""
        first, output = held[0], held[-1]
        held.clear()
        output.new_token_ids, output.new_logprobs = [], None
        output.finish_reason, output.stop_reason = self._stop, MARK
        output.prefill_stats = first.prefill_stats
        ended.append(output.request_id)
        return output


def expect(processor_class: Any, has_policies: bool) -> None:
    """Says whether output processors of this class of vLLM may work behind a guard only.

    So policies are not passed over by what is no server: batches in files, vLLM's `LLM`.
    """
    setattr(processor_class, _EXPECTED, has_policies)
    plain = processor_class.process_outputs
    if getattr(plain, "expects", False):
        return

    @wraps(plain)
    def process_outputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(self, _EXPECTED) and not getattr(self, _GUARDED, False):
            raise ConfigError(
                "Policies are followed by vLLM's HTTP server, and this is not it; leave them out "
                "of the options, or start `vllm serve` with these."
            )
        return plain(self, *args, **kwargs)

    process_outputs.expects = True  # type: ignore[attr-defined]
    processor_class.process_outputs = process_outputs
