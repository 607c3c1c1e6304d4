"""The verdicts of one HTTP request, from the logits that the engine gives its prompts.

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
from pillion.riding.client_options import ClientOptions
from pillion.riding.latest_logits import KEY, REFUSAL
from pillion.riding.metrics import UNREAD, ProbeSeconds, count_verdicts
from pillion.riding.verdicts import Verdicts, answer_json, read_of, verdicts_of

Json = dict[str, Any]
BEAMS = "beam search makes an answer of many requests, of which no probe reads the whole"


@dataclass
class EnginePrompt:
    """A prompt that the engine was given.

    Attributes:
        choices: number of answers to it.
        found: the latest logits that its outputs carried.
        filtered: whether a policy has ended an answer to it.
    """

    choices: int
    found: Mapping[str, Any] | None = None
    filtered: bool = False

    @property
    def refusal(self) -> str | None:
        """What was said in the place of every answer; None if they were given."""
        return self.found[REFUSAL] if self.found and REFUSAL in self.found else None


class RequestVerdicts:
    """Collects what the engine reads for one HTTP request, and makes its verdicts.

    Args:
        probes: that ride.
        options: of the client.
        unread: why no probe reads the answer as a whole, if none does.
        policies: that decide.
    """

    def __init__(
        self,
        probes: Sequence[Artefact],
        options: ClientOptions | None = None,
        unread: str | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.options, self.unread, self.prompts = (
            options or ClientOptions(),
            unread,
            list[EnginePrompt](),
        )
        self._riding, self._policies, wanted = probes, policies, self.options.probes
        self.probes = [a for a in probes if wanted is None or a.name in wanted]

    def begin(self, choices: int) -> EnginePrompt:
        """The engine is given a prompt."""
        self.prompts.append(EnginePrompt(choices))
        return self.prompts[-1]

    @property
    def has_read(self) -> bool:
        """Whether the first prompt has been read."""
        return bool(self.prompts) and self.prompts[0].found is not None

    def refusal(self, place: int) -> str | None:
        """What is said in the place of an answer; None if it is given."""
        index = place // self.prompts[0].choices if self.prompts else 0
        return self.prompts[index].refusal if index < len(self.prompts) else None

    @property
    def is_filtered(self) -> bool:
        """Whether a policy has ended the last answer."""
        return bool(self.prompts) and self.prompts[-1].filtered

    def places(self) -> list[int]:
        """Of every answer: counted over all prompts, as servers count choices."""
        each = self.prompts[0].choices
        read = [i for i, prompt in enumerate(self.prompts) if prompt.found is not None]
        return [i * each + choice for i in read for choice in range(each)]

    def verdicts(self, place: int = 0) -> Json:
        """The `verdicts` object of an answer.

        Args:
            place: of the answer, counted over all prompts as servers count choices.
        """
        if self.unread is not None:
            return self.last()
        index, choice = divmod(place, self.prompts[0].choices)
        if index >= len(self.prompts):
            return {"error": "The engine was not asked for this answer by itself."}
        return self._told(self.prompts[index], choice)

    def last(self) -> Json:
        """Of the last prompt and its answer: of several rounds with tools that is all of them."""
        return self._told(self.prompts[-1], 0)

    def count(self) -> None:
        """Counts the verdicts of all prompts and answers, whatever the client asked for."""
        # Beam search is one answer of many requests; a request given up early has no logits.
        read = [prompt for prompt in self.prompts if prompt.found is not None]
        prompts = read if self.unread is None else read[:1]
        for prompt, choice in ((one, i) for one in prompts for i in range(one.choices)):
            try:
                found = self._verdicts(prompt, choice, self._riding)
            except PillionError:
                UNREAD.inc()
                continue
            UNREAD.inc(found.unread is not None)
            if choice == 0:
                count_verdicts("prompt", found.prompt)
            count_verdicts("response", found.response)

    def _verdicts(self, prompt: EnginePrompt, choice: int, probes: Sequence[Artefact]) -> Verdicts:
        if self.unread is not None:
            return Verdicts({}, {}, 0, self.unread)
        if prompt.found is None:
            raise RunError("The request was given up before its prompt was read.")
        return verdicts_of({KEY: prompt.found}, probes, choice if prompt.choices > 1 else None)

    def _told(self, prompt: EnginePrompt, choice: int) -> Json:
        try:
            every = answer_json(
                self._verdicts(prompt, choice, self._riding), self._riding, self._policies
            )
        except PillionError as error:  # given up early, or states that are not finite
            return {"error": str(error)}
        names = {probe.name for probe in self.probes}
        told = every | {
            part: {name: said for name, said in every[part].items() if name in names}
            for part in ("prompt", "response")
        }
        if self.options.logits and prompt.found:
            parts = {
                "prompt": prompt.found["prompt"],
                "response": read_of(prompt.found, choice if prompt.choices > 1 else None)[
                    "response"
                ],
            }
            told["logits"] = {
                part: {name: one for name, one in logits.items() if name in names}
                for part, logits in parts.items()
            }
        return told


REQUEST_VERDICTS: ContextVar[RequestVerdicts | None] = ContextVar(
    "pillion_request_verdicts", default=None
)
"""Those of the HTTP request that is being answered."""
PROBE_SECONDS = ProbeSeconds()
"""Those of the engine behind this server."""
