"""Values of the parameters of bodies: what each may be, and how a schema says it.

Whatever comes, it is honoured, means nothing, or is refused by name. Knows no body and no engine.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_plain_validator_function

from pillion.core.lines import is_json
from pillion.serve.body import MOST_DEPTH

STOP_CHARS = 256
"""Of a stop string: every token is compared with all beginnings of it."""


BIASES = 1024
"""Tokens of a logit_bias."""


def fault(message: str) -> PydanticCustomError:
    """The error of a value, which its parameter is named beside."""
    # The message is no template: braces in it are the caller's.
    return PydanticCustomError("value_error", "{fault}", {"fault": message})


class Neutral:
    """Marks a parameter that is accepted only at values that ask for nothing; null is one."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """Refuses every other value, by name."""
        return no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        """Shows the values that are taken as an enumeration."""
        return {"enum": [None, *self.values]}

    def _check(self, got: Any) -> Any:
        if got is None or any(type(got) is type(v) and got == v for v in self.values):
            return got
        only = " or ".join(["null", *map(repr, self.values)])
        why = f"this server has no support for it; leave it out, or give {only}"
        raise PydanticCustomError("unsupported", "{fault}", {"fault": why})


def joined(
    content: Any, kinds: Collection[str], keys: Collection[str], only: str, named: str
) -> Any:
    """A message's text: a string, or a list of parts that are text.

    Args:
        content: as it came; what is no list is left to others.
        kinds: types of the parts.
        keys: that a part may have.
        only: the sentence where a part is of another type.
        named: how a part is called in a sentence, `{kind}` for its type.
    """
    if not isinstance(content, list):
        return content
    texts: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in kinds or not isinstance(part.get("text"), str):
            raise fault(only)
        if unknown := set(part) - set(keys):
            raise fault(f"{named.format(kind=kind)} has no {sorted(map(str, unknown))[0]!r}")
        texts.append(part["text"])
    return "".join(texts)


def _text_of_parts(content: Any) -> Any:
    only = "only parts of type 'text' are understood; this model reads no others"
    return joined(content, ("text",), ("type", "text"), only, "a text part")


def _listed(stops: Any) -> Any:
    stops = [stops] if isinstance(stops, str) else [] if stops is None else stops
    fits = isinstance(stops, list) and all(isinstance(s, str) and s for s in stops)
    if not fits or len(stops) > 4 or max(map(len, stops), default=0) > STOP_CHARS:
        raise fault(
            f"a string, or a list of up to 4 strings of at most {STOP_CHARS} characters, none of "
            "them empty, is wanted"
        )
    return stops


def _prompts(given: Any) -> Any:
    """A completion's prompts: each a string or a list of token ids."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise fault("a string, a list of strings, a list of token ids or a list of those")
    if all(type(one) is int for one in given):
        return [given]
    for one in given:
        ids = isinstance(one, list) and one and all(type(i) is int for i in one)
        if not isinstance(one, str) and not ids:
            raise fault("every prompt must be a string or a list of token ids")
    return given


def _inputs(given: Any) -> Any:
    """Texts to classify: a string, strings, or OpenAI's list of text parts."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        return [_text_of_parts(given)]
    if not isinstance(given, list) or not given or not all(isinstance(t, str) for t in given):
        raise fault("a string or a list of one or more strings is wanted")
    return given


def _biases(given: Any) -> Any:
    """What is added to logits: token id -> number; JSON has ids as strings."""
    if given is None or given == {}:
        return {}
    fits = isinstance(given, dict) and len(given) <= BIASES
    if not fits or not all(
        str(key).isascii() and str(key).isdigit() and len(str(key)) < 10 and type(v) in (int, float)
        for key, v in given.items()
    ):
        raise fault(f"an object of up to {BIASES} token ids, each with a number, is wanted")
    if any(not -100 <= value <= 100 for value in given.values()):
        raise fault("every number must be from -100 to 100")
    found = {int(key): float(value) for key, value in given.items()}
    if len(found) < len(given):
        raise fault("a token id stands there twice, as in 7 and 07; give it once")
    return found


def _object(text: Any) -> Any:
    """Arguments of a call: OpenAI sends them as the text of a JSON object."""
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        found = None
    # Inside of a string, escapes and levels have passed all checks of the body.
    if not isinstance(found, dict) or not is_json(found):
        raise fault("the text of a JSON object is wanted")
    if _is_deeper(found, MOST_DEPTH):
        raise fault(f"an object of at most {MOST_DEPTH} levels of lists and objects is wanted")
    return text


def _is_deeper(value: Any, most: int) -> bool:
    """Whether lists and objects lie in each other more than so many levels deep."""
    level = [value]
    for _ in range(most):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, dict | list)]
    return bool(level)


def _inside(value: Any) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value


def _sendable(value: Any) -> Any:
    """An object of the client's own, which goes to templates, other servers and back to it."""
    if not is_json(value):
        raise fault("JSON has no NaN and no infinity; give numbers that are finite")
    return value


_TEXT = {"type": "string"}
_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": _TEXT},
        "required": ["type", "text"],
        "additionalProperties": False,
    },
    "minItems": 1,
}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_STOP = {"type": "string", "minLength": 1, "maxLength": STOP_CHARS}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1}

Content = Annotated[
    StrictStr, BeforeValidator(_text_of_parts), WithJsonSchema({"anyOf": [_TEXT, _PARTS]})
]
Stops = Annotated[
    list[StrictStr],
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                _STOP,
                {"type": "array", "items": _STOP, "maxItems": 4},
                {"type": "null"},
            ]
        }
    ),
]
Prompts = Annotated[
    list[Any],
    BeforeValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                _TEXTS,
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
            ]
        }
    ),
]
Inputs = Annotated[
    list[StrictStr],
    Field(fail_fast=True),
    BeforeValidator(_inputs),
    WithJsonSchema({"anyOf": [_TEXT, _TEXTS, _PARTS]}),
]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.:-]{1,128}$")]
"""Templates write it as it is, outside of all words: it must not spell a control token."""
Biases = Annotated[
    dict[int, float],
    BeforeValidator(_biases),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
                    "maxProperties": BIASES,
                },
                {"type": "null"},
            ]
        }
    ),
]
Arguments = Annotated[StrictStr, BeforeValidator(_object)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_sendable)]
Nothing = Annotated[Any, Neutral()]
