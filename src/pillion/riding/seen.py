"""What the engine says of the prompts of one HTTP request; logits go no further than here.

The handlers of an engine's server ask it in the context of their request, each prompt by itself and
in order. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pillion.errors import PillionError, RunError
from pillion.policies import Policies
from pillion.probe import Artefact
from pillion.riding.asked import Asked
from pillion.riding.ledger import KEY, REFUSAL
from pillion.riding.metrics import UNREAD, Spent, count_verdicts
from pillion.riding.verdicts import Verdicts, answer_json, read_of, verdicts_of

Json = dict[str, Any]
BEAMS = "beam search makes an answer of many requests, of which no probe reads the whole"


@dataclass
class Call:
    """A prompt that the engine was given.

    Attributes:
        choices: answers to it.
        found: the latest that outputs carried of it.
        filtered: whether a policy has ended an answer to it.
    """

    choices: int
    found: Mapping[str, Any] | None = None
    filtered: bool = False

    @property
    def refusal(self) -> str | None:
        """What was said in the place of every answer; None if they were given."""
        return self.found[REFUSAL] if self.found and REFUSAL in self.found else None


class Seen:
    """Follows an HTTP request through an engine.

    Args:
        probes: that ride.
        asked: what the client wants to be told.
        unread: why no probe reads the answer as a whole, if none does.
        policies: that decide.
    """

    def __init__(
        self,
        probes: Sequence[Artefact],
        asked: Asked | None = None,
        unread: str | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.asked, self.unread, self.calls = asked or Asked(), unread, list[Call]()
        self._riding, self._policies, wanted = probes, policies, self.asked.probes
        self.probes = [a for a in probes if wanted is None or a.name in wanted]

    def begin(self, choices: int) -> Call:
        """The engine is given a prompt."""
        self.calls.append(Call(choices))
        return self.calls[-1]

    @property
    def has_read(self) -> bool:
        """Whether the first prompt has been read."""
        return bool(self.calls) and self.calls[0].found is not None

    def refusal(self, place: int) -> str | None:
        """What is said in the place of an answer; None if it is given."""
        index = place // self.calls[0].choices if self.calls else 0
        return self.calls[index].refusal if index < len(self.calls) else None

    @property
    def is_filtered(self) -> bool:
        """Whether a policy has ended the last answer."""
        return bool(self.calls) and self.calls[-1].filtered

    def places(self) -> list[int]:
        """Of every answer: counted over all prompts, as servers count choices."""
        each = self.calls[0].choices
        heard = [i for i, call in enumerate(self.calls) if call.found is not None]
        return [i * each + choice for i in heard for choice in range(each)]

    def verdicts(self, place: int = 0) -> Json:
        """Of an answer."""
        if self.unread is not None:
            return self.last()
        index, choice = divmod(place, self.calls[0].choices)
        if index >= len(self.calls):
            return {"error": "The engine was not asked for this answer by itself."}
        return self._told(self.calls[index], choice)

    def last(self) -> Json:
        """Of the last prompt and its answer: of several rounds with tools that is all of them."""
        return self._told(self.calls[-1], 0)

    def count(self) -> None:
        """Counts what was read of all prompts and answers, whatever the client wanted to hear."""
        # Beam search is one answer of many requests; who was given up early said nothing.
        read = [call for call in self.calls if call.found is not None]
        calls = read if self.unread is None else read[:1]
        for call, choice in ((one, i) for one in calls for i in range(one.choices)):
            try:
                found = self._verdicts(call, choice, self._riding)
            except PillionError:
                UNREAD.inc()
                continue
            UNREAD.inc(found.unread is not None)
            if choice == 0:
                count_verdicts("prompt", found.prompt)
            count_verdicts("response", found.response)

    def _verdicts(self, call: Call, choice: int, probes: Sequence[Artefact]) -> Verdicts:
        if self.unread is not None:
            return Verdicts({}, {}, 0, self.unread)
        if call.found is None:
            raise RunError("The request was given up before its prompt was read.")
        return verdicts_of({KEY: call.found}, probes, choice if call.choices > 1 else None)

    def _told(self, call: Call, choice: int) -> Json:
        try:
            every = answer_json(
                self._verdicts(call, choice, self._riding), self._riding, self._policies
            )
        except PillionError as error:  # given up early, or states that are not finite
            return {"error": str(error)}
        names = {probe.name for probe in self.probes}
        told = every | {
            part: {name: said for name, said in every[part].items() if name in names}
            for part in ("prompt", "response")
        }
        if self.asked.logits and call.found:
            parts = {
                "prompt": call.found["prompt"],
                "response": read_of(call.found, choice if call.choices > 1 else None)["response"],
            }
            told["logits"] = {
                part: {name: one for name, one in logits.items() if name in names}
                for part, logits in parts.items()
            }
        return told


SEEN: ContextVar[Seen | None] = ContextVar("pillion_seen", default=None)
"""Of the HTTP request that is being answered."""
SPENT = Spent()
"""Of the engine behind this server."""
