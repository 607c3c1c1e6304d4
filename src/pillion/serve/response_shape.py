"""What clients of `/v1/responses` get: OpenAI's responses and their events, with verdicts.

Pure functions of values; the events of a stream add up to the response at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pillion.serve.answers import AnswerShape, Choice, ChoiceEnd, ChoicePart, ChoiceStart, Json
from pillion.serve.response_bodies import ResponsesRequest
from pillion.serve.tool_calls import ToolCall


class ResponseShape(AnswerShape):
    """Of `/v1/responses`.

    Args:
        id: of the answer, without its prefix.
        body: of the request, parts of which are told again.
        created: seconds since 1970.
        dry_run: whether the decisions beside the verdicts were only written down.
    """

    def __init__(self, id: str, body: ResponsesRequest, created: int, dry_run: bool) -> None:
        super().__init__(dry_run)
        self.id, self.asked, self.created = id, body, created
        self._output: list[Json] = []  # of a stream, as far as it has come
        self._open: Json | None = None  # the message that is being written
        self._number = 0

    def body(self, choices: Sequence[Choice], used: Json) -> Json:
        """The JSON body of a whole response."""
        (choice,) = choices
        output: list[Json] = []
        status = _status(choice.end.reason)
        if choice.text or not choice.calls:
            output.append(self._message(0, choice.text, status))
        output += [self._call(len(output) + n, call) for n, call in enumerate(choice.calls)]
        return self._response(choice.end.reason, output, used, self._told(choice))

    def events(self, index: int, part: ChoicePart, prompt: Json) -> list[Json]:
        """One part, as events of a stream; the last one comes of `ending`."""
        if isinstance(part, ChoiceStart):
            told = self._response(None, [], None, self.verdicts(prompt))
            return [self._event(f"response.{kind}", response=told) for kind in _BEGINNING]
        if isinstance(part, ChoiceEnd):
            empty = self._say("") if not self._output and self._open is None else []
            return empty + self._close(_status(part.reason))
        found = self._say(part.text) if part.text else []
        for one in found:
            one["verdicts"] = {"response": part.verdicts, "response_tokens": part.num_read}
        for call in part.calls:
            found += self._close("completed") + self._called(call)
        return found

    def ending(self, choices: Sequence[Choice], used: Json, include_usage: bool) -> list[Json]:
        """The last event: the whole response."""
        (choice,) = choices
        reason = choice.end.reason
        told = self._response(reason, self._output, used, self._told(choice))
        return [self._event(f"response.{_status(reason)}", response=told)]

    def _told(self, choice: Choice) -> Json:
        return self.verdicts(choice.prompt, choice.end)

    def _say(self, text: str) -> list[Json]:
        found: list[Json] = []
        if self._open is None:
            self._open = self._message(len(self._output), "", "in_progress")
            part = self._open["content"].pop()
            found.append(self._event("response.output_item.added", item=dict(self._open)))
            self._open["content"] = [part]
            found.append(self._event("response.content_part.added", part=dict(part)))
        self._open["content"][0]["text"] += text
        found.append(self._event("response.output_text.delta", delta=text, logprobs=[]))
        return found

    def _close(self, status: str) -> list[Json]:
        """The message that was open is at its end."""
        if self._open is None:
            return []
        self._open["status"] = status
        (part,) = self._open["content"]
        found = [
            self._event("response.output_text.done", text=part["text"], logprobs=[]),
            self._event("response.content_part.done", part=part),
            self._event("response.output_item.done", item=self._open),
        ]
        self._output.append(self._open)
        self._open = None
        return found

    def _called(self, call: ToolCall) -> list[Json]:
        item = self._call(len(self._output), call)
        begun = item | {"arguments": "", "status": "in_progress"}
        kind = "response.function_call_arguments"
        found = [
            self._event("response.output_item.added", item=begun),
            self._event(f"{kind}.delta", item_id=item["id"], delta=call.arguments),
            self._event(f"{kind}.done", item_id=item["id"], arguments=call.arguments)
            | {"name": call.name},
            self._event("response.output_item.done", item=item),
        ]
        self._output.append(item)
        return found

    def _event(self, kind: str, **facts: Any) -> Json:
        told: Json = {"type": kind, "sequence_number": self._number}
        self._number += 1
        if "response" not in facts:
            told["output_index"] = len(self._output)
        if kind.startswith(("response.output_text", "response.content_part")):
            assert self._open is not None
            told |= {"item_id": self._open["id"], "content_index": 0}
        return told | facts

    def _message(self, place: int, text: str, status: str) -> Json:
        part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        head = {"id": f"msg_{self.id}_{place}", "type": "message", "role": "assistant"}
        return head | {"status": status, "content": [part]}

    def _call(self, place: int, call: ToolCall) -> Json:
        return {
            "id": f"fc_{self.id}_{place}",
            "type": "function_call",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }

    def _response(
        self, reason: str | None, output: Sequence[Json], used: Json | None, verdicts: Json
    ) -> Json:
        """A response; without a reason one that has only begun."""
        body, why = self.asked, _INCOMPLETE.get(reason or "")
        dumped = body.model_dump(exclude_none=True, by_alias=True)
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": self.created,
            "status": "in_progress" if reason is None else _status(reason),
            "error": None,
            "incomplete_details": why and {"reason": why},
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": list(output),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": dumped.get("text", {}).get("format", {"type": "text"})},
            "tool_choice": dumped.get("tool_choice", "auto"),
            "tools": [
                {"parameters": None, "strict": None, **tool} for tool in dumped.get("tools", [])
            ],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": used and _usage(used),
            "verdicts": verdicts,
        }


_BEGINNING = ("created", "in_progress")
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _status(reason: str) -> str:
    return "incomplete" if reason in _INCOMPLETE else "completed"


def _usage(used: Json) -> Json:
    """OpenAI's usage of a response, from that of a chat."""
    return {
        "input_tokens": used["prompt_tokens"],
        "input_tokens_details": used["prompt_tokens_details"] | {"cache_write_tokens": 0},
        "output_tokens": used["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used["total_tokens"],
    }
