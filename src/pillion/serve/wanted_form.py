"""The form that an answer must have, as a grammar: JSON, a schema, calls of tools. Pure functions.

Knows how families write calls, nothing of tokens but the ids of their marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pillion.backends import Tool
from pillion.backends.grammar import json_rule
from pillion.serve.tool_calls import CallFormat

_NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
"""The schema of a tool that names none: it takes no arguments."""

_TEXT = r"TEXT: /(.|\n)*/"


def json_form(schema: Mapping[str, Any]) -> str:
    """An answer that is a JSON value of a schema."""
    return f"start: {json_rule(schema)}\n"


def calls_form(
    form: CallFormat,
    tools: Sequence[Tool],
    ids: Mapping[str, int],
    must: bool,
    most: int | None,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """An answer that calls tools, each with arguments of its schema.

    Args:
        form: in which the model writes calls.
        tools: that may be called.
        ids: marks that are tokens which decoding leaves out.
        must: whether it has to; otherwise it may be text, and its calls have the form.
        most: calls of the answer; None: any number.
        answer: the schema of an answer that calls none; None: it may be any text.
    """
    rules = [f"call: {' | '.join(f'call_{n}' for n in range(len(tools)))}"]
    for n, tool in enumerate(tools):
        function = tool["function"]
        # In the pieces that JSON has, so that a call and another object may begin alike.
        head = (
            "{",
            '"name"',
            ": ",
            json.dumps(function["name"]),
            ", ",
            f'"{form.arguments}"',
            ": ",
        )
        rules.append(f'call_{n}: {" ".join(map(json.dumps, head))} args_{n} "}}"')
        rules.append(f"args_{n}: {json_rule(function.get('parameters') or _NOTHING)}")
    opening = _mark(form.opening, ids)
    more = "" if most == 1 else "*"
    if form.closing:
        inner = rf'"\n" call "\n" {_mark(form.closing, ids)}'
        rest = f' ("\\n" {opening} {inner}){more}' if more else ""
        calls = f"{opening} {inner}{rest}"
    elif form.bare:
        calls = "call"
    else:
        rest = ' (", " call)*' if more else ""
        calls = f'{opening} " [" call{rest} "]"'
    if must:
        return "\n".join([f"start: {calls}", *rules, ""])
    if answer is not None:
        return "\n".join([f"start: {calls} | answer", f"answer: {json_rule(answer)}", *rules, ""])
    return "\n".join([*_or_text(form, ids, calls), *rules, ""])


def _or_text(form: CallFormat, ids: Mapping[str, int], calls: str) -> list[str]:
    """Rules of an answer that may be text, and in which a mark of calls begins calls."""
    if form.bare:
        return [f"start: {calls} | WORDS |", r"WORDS: /[^{\s](.|\n)*/"]
    if form.opening in ids:
        return [f"start: TEXT ({calls})?", _TEXT]
    _, rest = calls.split(json.dumps(form.opening), 1)
    lazy = f"opened[lazy]: /(.|\\n)*{_escaped(form.opening)}/"
    return [f"start: TEXT | opened{rest}", _TEXT, lazy]


def _escaped(mark: str) -> str:
    return "".join(f"\\{char}" if char in r"\/[](){}|.*+?^$" else char for char in mark)


def _mark(mark: str, ids: Mapping[str, int]) -> str:
    """A mark in a rule: a token by its number, where it is one that means more than its letters."""
    return f"<[{ids[mark]}]>" if mark in ids else json.dumps(mark)
