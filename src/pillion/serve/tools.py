"""Tools that a client offers: whether the model can call them, and how its calls are read back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from pillion.backends import Coder, Tool
from pillion.serve.answers import ChoiceDelta, ChoiceEnd, ChoicePart
from pillion.serve.refusal import Refused
from pillion.serve.requests import ChatRequest, NamedTool
from pillion.serve.tool_calls import FORMS, CallFormat, CallReader, form_of
from pillion.serve.wanted_form import calls_form


@dataclass(frozen=True)
class OfferedTools:
    """What a model may call in an answer.

    Attributes:
        tools: for the chat template.
        form: in which the model writes calls.
        most: calls of an answer; None: any number.
        must: names of the tools of which one has to be called; none where none has to.
        strict: whether arguments have to be of their schema where a tool is called.
    """

    tools: tuple[Tool, ...]
    form: CallFormat
    most: int | None
    must: tuple[str, ...] = ()
    strict: bool = False

    def reader(self) -> CallReader:
        """A reader of the calls in one answer."""
        names = frozenset(str(tool["function"]["name"]) for tool in self.tools)
        return CallReader(self.form, names, self.most)

    def marks(self, codec: Coder) -> dict[int, str]:
        """Tokens that decoding leaves out, and without which no call could be seen."""
        found = {codec.hidden_id(mark): mark for mark in self.form.marks}
        return {number: mark for number, mark in found.items() if number is not None}

    def grammar(self, codec: Coder, answer: Mapping[str, Any] | None = None) -> str:
        """That an answer must follow, empty for none; `answer`: its schema where it calls none."""
        if not self.must and not self.strict and answer is None:
            return ""
        ids = {mark: number for number, mark in self.marks(codec).items()}
        tools = [t for t in self.tools if not self.must or t["function"]["name"] in self.must]
        return calls_form(self.form, tools, ids, bool(self.must), self.most, answer)


def offer_of(body: ChatRequest, codec: Coder) -> OfferedTools | None:
    """What a request offers; None where there are no tools, or none may be called.

    Raises:
        Refused: 400, a model that cannot call tools.
    """
    if not body.tools or body.tool_choice == "none":
        return None
    form = form_of(codec.chat_template)
    if form is None:
        known = ", ".join(one.name for one in FORMS)
        raise Refused(
            400,
            f"The chat template of {body.model!r} takes no tools, or has calls written in a form "
            f"that is not read here (those of {known} are); leave tools out, or ask another model.",
            "unsupported_parameter",
            "tools",
        )
    choice, names = body.tool_choice, tuple(one.function.name for one in body.tools)
    must = names if choice == "required" else ()
    most = 1 if body.parallel_tool_calls is False else None
    if isinstance(choice, NamedTool):
        must, most = (choice.function.name,), 1
    strict = any(one.function.strict for one in body.tools)
    return OfferedTools(tuple(_tool(one.function) for one in body.tools), form, most, must, strict)


async def with_calls(
    parts: AsyncGenerator[ChoicePart], reader: CallReader
) -> AsyncGenerator[ChoicePart]:
    """The parts of an answer, its calls taken out of the text."""
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, ChoiceDelta):
                text, calls = reader.add(part.text)
                yield replace(part, text=text, calls=calls)
            elif isinstance(part, ChoiceEnd):
                stopped = part.reason == "content_filter"
                text, calls = (reader.cut(), ()) if stopped else reader.end()
                if text or calls:
                    yield ChoiceDelta(text, part.verdicts, part.num_read, (), calls)
                called = reader.num_calls and part.reason == "stop"
                yield replace(part, reason="tool_calls") if called else part
            else:
                yield part


def _tool(function: Any) -> Tool:
    told = function.model_dump(exclude_none=True, exclude={"strict"})
    return {"type": "function", "function": told}
