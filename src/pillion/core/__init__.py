"""The words of pillion as frozen values: conversations, shapes, model identities, verdicts.

Knows neither models nor network.
"""

from pillion.core.absence import absences, absent
from pillion.core.classification import classification_json
from pillion.core.conversation import (
    ANSWER_SCOPES,
    PROMPT_SCOPES,
    SCOPES,
    Conversation,
    Kind,
    Role,
    Scope,
    Segment,
    Text,
    TextLike,
    Tokens,
    Turn,
    as_conversation,
    as_text,
    as_tokens,
    in_reasoning,
    last_role,
    role_of,
    scope_of_ends,
)
from pillion.core.events import Event, Finished, PromptRead, TokenEvent
from pillion.core.failed_row import FailedRow
from pillion.core.identity import ModelIdentity, OnTooLong, Template
from pillion.core.shape import Shape
from pillion.core.verdict import ABSTAIN, Verdict, verdict_json, verdicts_json

__all__ = [
    "ABSTAIN",
    "ANSWER_SCOPES",
    "PROMPT_SCOPES",
    "SCOPES",
    "Conversation",
    "Event",
    "FailedRow",
    "Finished",
    "Kind",
    "ModelIdentity",
    "OnTooLong",
    "PromptRead",
    "Role",
    "Scope",
    "Segment",
    "Shape",
    "Template",
    "Text",
    "TextLike",
    "TokenEvent",
    "Tokens",
    "Turn",
    "Verdict",
    "absences",
    "absent",
    "as_conversation",
    "as_text",
    "as_tokens",
    "classification_json",
    "in_reasoning",
    "last_role",
    "role_of",
    "scope_of_ends",
    "verdict_json",
    "verdicts_json",
]
