"""What is known of the requests that an engine runs: a lane each.

Knows neither states nor pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pillion.backends.paged import Chunk
from pillion.sidecache.script import Script

Probs = Mapping[str, list[float]]
"""Probabilities by probe; without those that have read no token of their scope."""


@dataclass
class Lane:
    """How far a request has been read.

    Attributes:
        row: its place in the groups.
        script: whose words its tokens are.
        wanted: whether anybody wants verdicts of it.
        prompt: what the probes say of it, once it has been read.
        answer: what they say of the answer so far.
        lost: probes that the pages which it shares could not tell the words of their scope, as
            whoever filled them knew other turns; they say nothing of the prompt.
        read_tokens: tokens that the row's fold has taken in, or has been reset behind.
        fault: what is wrong with the states of the request.
    """

    row: int
    script: Script
    wanted: bool
    prompt: Probs | None = None
    answer: Probs = field(default_factory=dict[str, list[float]])
    lost: tuple[str, ...] = ()
    read_tokens: int = 0
    fault: str | None = None


class Due(NamedTuple):
    """Whose verdicts are due after a step, and the chunks that they read.

    Attributes:
        prompts: prompts that are now whole.
        answers: answers whose fold was brought up to date.
        tokens: answers that go on by one token.
    """

    prompts: list[tuple[Lane, Chunk]]
    answers: list[tuple[Lane, Chunk]]
    tokens: list[tuple[Lane, Chunk]]
