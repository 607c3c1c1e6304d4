"""Turns, conversations, and which of them a probe reads.

A *turn* is a message, a *conversation* a list of turns. A *segment* is a run of tokens of one
turn's content, a *scope* says which segments a probe reads. Knows neither templates nor tokenizers.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from pillion.core.identity import Template
from pillion.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)

_OTHER_ROLES: dict[str, Role] = {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
}
"""What other formats (OpenAI's newer one, ShareGPT) call the same roles."""

Scope = Literal["last-user", "user", "response", "assistant", "tool", "system", "all"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Which segments a probe reads: contents of the last user's turn, of all turns of a role, of the
answer (`response`: the one being generated, or the last assistant's turn); or `all`: every token,
the template's too."""

PROMPT_SCOPES: tuple[Scope, ...] = ("last-user", "user", "assistant", "tool", "system", "all")
"""Scopes that a prompt can hold: their verdicts are known before the first generated token."""

ANSWER_SCOPES: tuple[Scope, ...] = ("response", "assistant", "all")
"""Scopes that generated tokens belong to."""

Kind = Literal["content", "reasoning", "call"]
"""Of a segment: a turn's words, the reasoning before an answer, or what a turn says to tools."""

_PLAIN_KEYS = ("role", "content", "from", "value")


@dataclass(frozen=True)
class Turn:
    """One message.

    Attributes:
        role: of the speaker.
        content: what is said; may be empty in an assistant's turn that only calls tools.
        more: what else the message holds, for the chat template: `tool_calls`, `name`, ...
    """

    role: Role
    content: str
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])


Conversation = tuple[Turn, ...]
"""Turns in their order."""

Text = str | Conversation
"""What a row holds: a text by itself (the user's only turn under a chat template), or turns."""

TextLike = Text | Sequence[Turn | Mapping[str, Any]]
"""What a user may give for it: messages of role and content are as good as turns."""


@dataclass(frozen=True)
class TurnSpan:
    """Where a part of one turn stands.

    Attributes:
        begin: place of its first token or character.
        end: place after its last one.
        role: of the speaker.
        turn: place of the turn in the conversation.
        kind: what part of the turn it is.
    """

    begin: int
    end: int
    role: Role
    turn: int
    kind: Kind = "content"


class Segment(TurnSpan):
    """A run of tokens of one turn."""


class Tokens(tuple[int, ...]):
    """Token ids with the turns that they belong to; tokens in no segment are the template's.

    A tuple of ids to all other code.

    Attributes:
        segments: ascending, disjoint; none for a text without turns.
    """

    segments: tuple[Segment, ...]

    def __new__(cls, ids: Sequence[int] = (), segments: Sequence[Segment] = ()) -> Tokens:
        """Of ids and the segments among them."""
        own = super().__new__(cls, ids)
        own.segments = tuple(segments)
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        """Four bytes a token on their way to another process."""
        return _tokens, (array("i", self), self.segments)

    def ranges(self, scope: Scope) -> tuple[range, ...]:
        """Places of the tokens that a scope reads, ascending; none where it is absent."""
        if scope == "all":
            return (range(len(self)),) if self else ()
        return tuple(range(s.begin, s.end) for s in self._chosen(scope) if s.begin < s.end)

    def _chosen(self, scope: Scope) -> Iterator[Segment]:
        role = role_of(scope)
        own = [s for s in self.segments if s.role == role and s.kind == "content"]
        last = own[-1].turn if own and scope in ("last-user", "response") else None
        return (s for s in own if last is None or s.turn == last)


def _tokens(ids: array[int], segments: tuple[Segment, ...]) -> Tokens:
    return Tokens(ids, segments)


def as_tokens(ids: Sequence[int]) -> Tokens:
    """Ids as `Tokens`; plain ones belong to no turn."""
    return ids if isinstance(ids, Tokens) else Tokens(ids)


def in_reasoning(row: Sequence[int], reasoning: tuple[int, int] | None) -> bool:
    """Whether what follows these tokens is reasoning, as their template has begun it."""
    if reasoning is None:
        return False
    return next((token == reasoning[0] for token in reversed(row) if token in reasoning), False)


def as_conversation(messages: Any) -> Conversation:
    """A conversation from a list of messages: mappings of role and content, or of from and value.

    Args:
        messages: in their order; a content may be a list of parts, of which each is a text.

    Raises:
        DataError: no turns, an unknown role, an empty turn, or a message that is none.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise DataError(
            f"a conversation is a list of messages with role and content, got {_kind(messages)}; "
            "write it as such a list."
        )
    if not messages:
        raise DataError("the conversation has no turns; give it one or more, or drop the row.")
    return tuple(_turn(message, n) for n, message in enumerate(cast("Sequence[Any]", messages), 1))


def last_role(text: Text) -> Role:
    """Role of the last turn; a text by itself is the user's."""
    return "user" if isinstance(text, str) else text[-1].role


def scope_of_ends(ends: Collection[Role], template: Template) -> Scope:
    """Whose words are read unless a scope is named: the answer's where every row ends with one.

    Args:
        ends: role of the last turn of each row.
        template: how rows are wrapped; a raw text has no turns, and is read as a whole.
    """
    if template == "raw":
        return "all"
    return "response" if set(ends) == {"assistant"} else "last-user"


def role_of(scope: Scope) -> str:
    """The role whose turns a scope reads; `all` stays as it is."""
    return {"last-user": "user", "response": "assistant"}.get(scope, scope)


def as_text(text: TextLike) -> Text:
    """What a user has given, as what a row holds: messages become turns; see `as_conversation`."""
    return text if isinstance(text, str) else as_conversation(text)


def _turn(message: Any, number: int) -> Turn:
    if isinstance(message, Turn):
        return message
    if not isinstance(message, Mapping):
        raise DataError(f"turn {number} is {_kind(message)}; write it as role and content.")
    found = cast("Mapping[str, Any]", message)
    role = found.get("role", found.get("from"))
    if role is None:
        raise DataError(f"turn {number} has no role; give it one of: {', '.join(ROLES)}.")
    role = _OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise DataError(
            f"turn {number} has the unknown role {str(role)[:40]!r}; known: {', '.join(ROLES)}."
        )
    more = {k: v for k, v in found.items() if k not in _PLAIN_KEYS and v is not None}
    content = _content(found.get("content", found.get("value")), number)
    if not content.strip() and not (role == "assistant" and more.get("tool_calls")):
        raise DataError(
            f"turn {number} ({role}) is empty; give it some words, or leave the turn out."
        )
    return Turn(role, content, more)


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = cast("list[Any]", content) if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"turn {number} has a content of {_kind(content)}; write it as a string, or as parts "
            "of type text."
        )
    return "".join(cast("list[str]", texts))


def _kind(value: Any) -> str:
    names = {"str": "a string", "dict": "a mapping", "list": "a list", "NoneType": "nothing"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
