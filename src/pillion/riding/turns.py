"""The turns of a prompt's tokens, on their way to an engine beside sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, NamedTuple, get_args

from pillion.core import Role, Segment, Tokens
from pillion.core.conversation import Kind

TURNS = "pillion_turns"
"""Name of the parameter."""


class PromptTurns(NamedTuple):
    """What is known of a prompt.

    Attributes:
        tokens: with their turns.
        answering: whether an answer follows, which is then what probes of answers read.
    """

    tokens: Tokens
    answering: bool = True


def turns_args(tokens: Tokens, answering: bool = True) -> dict[str, str]:
    """The turns of a prompt as an extra argument beside an engine's sampling parameters.

    With vLLM it goes into `SamplingParams.extra_args`.

    Args:
        tokens: of the prompt, as `encode_chat` gives them.
        answering: whether an answer follows; of a whole conversation, probes of answers read the
            last assistant's turn in it.
    """
    told = {"tokens": len(tokens), "segments": [astuple(one) for one in tokens.segments]}
    return {TURNS: json.dumps(told | {"answering": answering})} if tokens.segments else {}


def prompt_turns(ids: Sequence[int], extra_args: Mapping[str, Any] | None) -> PromptTurns:
    """A prompt with the turns that came with it; without any where those do not fit."""
    if not extra_args or TURNS not in extra_args:
        return PromptTurns(Tokens(ids))
    try:
        told = json.loads(extra_args[TURNS])
        length, segments = told["tokens"], [_segment(*one) for one in told["segments"]]
        answering = bool(told["answering"])
    except (TypeError, ValueError, KeyError):
        return PromptTurns(Tokens(ids))
    places = [0, *(place for one in segments for place in (one.begin, one.end)), len(ids)]
    fits = length == len(ids) and places == sorted(places)
    return PromptTurns(Tokens(ids, segments), answering) if fits else PromptTurns(Tokens(ids))


def _segment(begin: int, end: int, role: Role, turn: int, kind: Kind) -> Segment:
    if role not in get_args(Role) or kind not in get_args(Kind):
        raise ValueError(role, kind)
    return Segment(int(begin), int(end), role, int(turn), kind)
