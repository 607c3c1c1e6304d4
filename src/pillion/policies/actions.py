"""What a policy may do, one class an action: when it acts, on what, and what is said or asked.

A new action is one more class here, and its row in `ACTIONS`. Reads no file and sends nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from pillion.core import Verdict
from pillion.core.lines import is_json
from pillion.core.strict import Strict
from pillion.probe import Card

REFUSAL = "I can't help with that."
TextPart = Literal["prompt", "response"]
JudgeReply = Literal["yes", "no", "failed"]
"""What a judge said."""


class Typed(Strict):
    """A record of the file, whose values have to be of their type as they are written."""

    model_config = ConfigDict(strict=True)

    @field_validator("*")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        if isinstance(value, str) and not is_json(value):
            raise ValueError("half of a surrogate pair is no character; write the whole one")
        return value


class Policy(Typed):
    """What all policies have; what most of them do not is left at a default here.

    Attributes:
        action: its name in the file.
        on: which part of a conversation it looks at.
        probe: whose verdict it looks at.
        label: the label that it waits for; None: the positive one of a binary probe.
        acts: whether something is done, so that policies behind it have no say.
        asks: whether a judge has to agree.
        server_kind: `upstream` or `judge`, the key that names a server of the file; None: none.
    """

    acts: ClassVar[bool] = True
    asks: ClassVar[bool] = False
    server_kind: ClassVar[str | None] = None

    action: Any  # each action says which words it takes
    on: Any
    probe: str
    label: str | None = None

    def applies(self, verdict: Verdict | None, num_tokens: int | None = None) -> bool:
        """Whether a verdict is one that the policy waits for; without one, `fail` tells.

        Args:
            verdict: None where one is missing.
            num_tokens: of the answer that it covers; None for a prompt's.
        """
        if num_tokens is not None and num_tokens < self.least_tokens:
            return False  # of a response so short, no verdict is missing
        return self.closed if verdict is None else self.waits_for(verdict)

    @abstractmethod
    def waits_for(self, verdict: Verdict) -> bool:
        """Whether it acts on a verdict."""

    def label_of(self, verdict: Verdict) -> str:
        """The label that it waits for: its own, or the positive one of a binary probe."""
        *_, positive = verdict.probs
        return positive if self.label is None else self.label

    def done(self, said: JudgeReply | None) -> str | None:
        """What is done, as decisions tell it; None: nothing after all. `said` is its judge's."""
        return self.action

    @property
    def closed(self) -> bool:
        """Whether it acts where a verdict or an answer is missing."""
        return False

    @property
    def least_tokens(self) -> int:
        """Verdicts of fewer tokens of an answer than this are not acted on."""
        return 1

    @property
    def held_tokens(self) -> int:
        """How many tokens of an answer wait for those after them to be read."""
        return 0

    @property
    def refused(self) -> str | None:
        """What is said in the place of an answer; None: nothing."""
        return None

    @property
    def server(self) -> str | None:
        """Which of the file's upstreams or judges it needs; None: none."""
        return None if self.server_kind is None else getattr(self, self.server_kind)

    def card_fault(self, card: Card) -> str:
        """What its probe's card lacks, as the end of a sentence; empty if nothing."""
        return ""


class _Crossing(Policy):
    """A policy that acts when a line is crossed.

    Attributes:
        threshold: the label's probability from which it acts; None: where the probe decides so.
    """

    threshold: Annotated[float | None, Field(ge=0, le=1)] = None

    def waits_for(self, verdict: Verdict) -> bool:
        """Whether the line is crossed."""
        label = self.label_of(verdict)
        if self.threshold is None:
            return label in verdict.labels
        return verdict.probs[label] >= self.threshold


class _Failing(Policy):
    """A policy that says what happens where a verdict or an answer is missing."""

    fail: Literal["open", "closed"]

    @property
    def closed(self) -> bool:
        """Whether a missing verdict or answer acts: `fail` is `closed`."""
        return self.fail == "closed"


class _Holding(_Failing):
    """A policy that may end an answer.

    Attributes:
        hold_back: tokens that wait for those after them to be read; 1 or more: the token that
            crosses the line is not sent, nor the hold_back - 1 before it.
        after_tokens: verdicts of fewer tokens than this are not acted on.
    """

    hold_back: Annotated[int, Field(ge=0, le=1024)] = 1
    after_tokens: Annotated[int, Field(ge=1)] = 1

    @property
    def least_tokens(self) -> int:
        """Answer tokens that are read before it may act: `after_tokens`."""
        return self.after_tokens

    @property
    def held_tokens(self) -> int:
        """Answer tokens that wait to be sent: `hold_back`."""
        return self.hold_back


class _Refusing(_Failing):
    """A policy that says something in the place of an answer."""

    refusal: str = REFUSAL

    @property
    def refused(self) -> str:
        """The text of the refusal."""
        return self.refusal


class Annotate(_Crossing):
    """The decision is told beside the verdict; nothing else happens."""

    acts = False

    action: Literal["annotate"]
    on: TextPart = "prompt"


class Block(_Crossing, _Refusing):
    """A refusal instead of an answer, before the first token."""

    action: Literal["block"]
    on: Literal["prompt"] = "prompt"


class Stop(_Crossing, _Holding):
    """The answer ends at the token that crosses the line."""

    action: Literal["stop"]
    on: Literal["response"] = "response"


class Route(_Crossing, _Failing):
    """Another server answers a prompt for which the verdict acts."""

    server_kind = "upstream"

    action: Literal["route"]
    on: Literal["prompt"] = "prompt"
    upstream: str


class Escalate(_Holding, _Refusing):
    """Where the probe is unsure, a judge decides: yes blocks a prompt or stops an answer.

    Attributes:
        band: probabilities of the label, from the first up to but without the second, in which the
            judge is asked; None: where the probe abstains by its card.
        judge: a name of the file's judges.
    """

    asks = True
    server_kind = "judge"

    action: Literal["escalate"]
    on: TextPart = "prompt"
    judge: str
    band: tuple[float, float] | None = None

    @field_validator("band")
    @classmethod
    def _rising(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is None or 0 <= band[0] < band[1] <= 1:
            return band
        raise ValueError(f"the band is {list(band)}; give [low, high] within 0 to 1")

    def waits_for(self, verdict: Verdict) -> bool:
        """Whether the probe is unsure."""
        if self.band is None:
            return bool(verdict.abstained)
        return self.band[0] <= verdict.probs[self.label_of(verdict)] < self.band[1]

    def done(self, said: JudgeReply | None) -> str | None:
        """What a judge's yes leads to."""
        if said == "no" or (said == "failed" and not self.closed):
            return None
        return "block" if self.on == "prompt" else "stop"

    def card_fault(self, card: Card) -> str:
        """A band is needed, here or there."""
        if self.band is not None or card.abstain is not None:
            return ""
        return "has no band to abstain in; give one, such as band: [0.3, 0.7]"


ACTIONS: dict[str, type[Policy]] = {
    "annotate": Annotate,
    "block": Block,
    "stop": Stop,
    "route": Route,
    "escalate": Escalate,
}
